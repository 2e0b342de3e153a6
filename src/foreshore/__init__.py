"""Foreshore: run inference on this machine where it can, in the cloud where it must."""
