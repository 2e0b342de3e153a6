"""Word lists that the tasks draw from."""

from __future__ import annotations

__all__ = [
    "ADJECTIVES",
    "CITIES",
    "COLOURS",
    "DOMAINS",
    "FILLER",
    "ITEMS",
    "JOBS",
    "NAMES",
    "NOUNS",
    "SURNAMES",
]

NAMES = (
    "Anna Ben Carla David Elena Felix Greta Hugo Ida Jonas Kira Leon Mara Nils Olga Paul Rosa Sven Tara Udo Vera "
    "Willem Yara Zoe Amir Bela Chen Dana Emil Fatima Goran Hana Igor Jana Karim Lina Milan Nora Omar Petra"
).split()
SURNAMES = (
    "Adler Berg Castro Dahl Ebert Fischer Gomez Haas Ivanov Jansen Keller Lund Moreau Novak Olsen Peters Quinn Rossi "
    "Silva Toth Urban Vogel Weber Young Ziegler Baker Cooper Dixon Evans Foster"
).split()
CITIES = (
    "Oslo Rome Paris Berlin Madrid Lisbon Vienna Prague Dublin Athens Helsinki Warsaw Zurich Bergen Porto Milan "
    "Hamburg Geneva Krakow Seville Turin Ghent Malmo Tartu Riga Vilnius Lyon Nantes Cork Leeds"
).split()
DOMAINS = "mail.com post.net inbox.org example.com letters.net work.io home.org office.net box.eu web.dev".split()
ITEMS = (
    "apples pears books pencils stamps coins shells cards eggs plums tickets stickers candles marbles buttons cups"
).split()
COLOURS = "red blue green black white yellow brown grey pink purple orange silver".split()
ADJECTIVES = "old new small large quiet bright cheap heavy clean round soft warm cold sharp plain dusty".split()
NOUNS = (
    "river table garden window market bridge bottle camera candle basket mirror ladder pillow hammer ticket wallet "
    "forest island harbor valley tower castle kitchen cellar office school train boat horse tiger rabbit falcon lemon "
    "pepper butter cheese bread honey coffee sugar paper pencil letter number minute summer winter morning"
).split()
JOBS = "baker teacher nurse pilot farmer painter lawyer dentist driver gardener singer tailor plumber writer".split()

# Sentences without a name, a number or an address: they lengthen a context and answer nothing.
FILLER = (
    "The meeting took longer than planned.",
    "We walked along the river before lunch.",
    "The printer on the second floor is out of paper again.",
    "It rained for most of the afternoon.",
    "The new coffee machine is easier to clean.",
    "Somebody left an umbrella near the door.",
    "The train was late, but the seats were free.",
    "The garden looks better since the old fence is gone.",
    "There was music in the street until midnight.",
    "The window in the kitchen does not close well.",
    "A truck blocked the road for a while.",
    "The soup was warm and the bread was fresh.",
    "Nobody knew where the spare key was.",
    "The report was printed on thick paper.",
    "The museum opens early in summer.",
    "The cat slept under the table all day.",
    "The ladder is too short for the roof.",
    "They painted the wall a second time.",
    "The boat left the harbor in the morning.",
    "The market was busy and loud.",
    "The lights went out for a short moment.",
    "The parcel was heavier than it looked.",
    "The bridge is closed for repairs.",
    "We still have to order more chairs.",
)
