from foreshore.cli import main

main()
