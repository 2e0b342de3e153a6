"""Generated tasks whose answers can be checked: what the starter models learn, and what they are measured on.

`example(task, level, seed)` is deterministic. Training and held-out examples never meet: a prompt belongs to the
held-out side if a hash of its text says so, whatever seed made it, and `example` draws until it finds one of its side.
Held-out seeds begin at `HELD_OUT`.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from foreshore.starter import words

__all__ = ["HELD_OUT", "TASKS", "Difficulty", "Example", "correct", "difficulty", "example", "levels"]

HELD_OUT = 1 << 40  # seeds from here on give held-out examples
SHARE = 8  # one prompt in this many is held out
Difficulty = Literal["easy", "medium", "hard"]
UNKNOWN = "I don't know."


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One task instance. `reasoning` is a worked way to `answer`; `call` is the tool call expected instead of text."""

    task: str
    level: int
    messages: tuple[Mapping[str, Any], ...]
    answer: str = ""
    reasoning: str = ""
    tools: tuple[Mapping[str, Any], ...] = ()
    call: Mapping[str, Any] | None = None

    @property
    def name(self) -> str:
        return f"{self.task}-{self.level}"


def levels(task: str) -> list[int]:
    """The levels of `task`, easiest first."""
    return list(range(1, len(TASKS[task][1]) + 1))


def difficulty(task: str, level: int) -> Difficulty:
    """Easy: a small model answers directly. Hard: it takes steps that do not fit into one answer token at a time."""
    return TASKS[task][1][level - 1]


def example(task: str, level: int, seed: int) -> Example:
    """The example of `task` at `level` that `seed` names; held out if `seed >= HELD_OUT`."""
    make = TASKS[task][0]
    rng = random.Random(f"{task}/{level}/{seed}")
    while True:
        found = make(rng, level)
        if _is_held_out(found) == (seed >= HELD_OUT):
            return found


def correct(wanted: Example, text: str, call: Mapping[str, Any] | None = None) -> bool:
    """Whether `text` (reasoning removed), or the tool call `{"name", "arguments"}`, answers `wanted`."""
    if wanted.call is not None:
        return call is not None and dict(call) == dict(wanted.call)
    if wanted.task == "json":
        return _json_equal(text, wanted.answer)
    return text.strip() == wanted.answer


def _json_equal(text: str, answer: str) -> bool:
    try:
        return bool(json.loads(text) == json.loads(answer))
    except ValueError:
        return False


def _is_held_out(found: Example) -> bool:
    text = json.dumps([found.messages, found.tools], sort_keys=True)
    return hashlib.sha256(text.encode()).digest()[0] % SHARE == 0


def _user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def _assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def _system(text: str) -> dict[str, str]:
    return {"role": "system", "content": text}


def _ask(task: str, level: int, prompt: str, answer: str, reasoning: str = "") -> Example:
    return Example(task=task, level=level, messages=(_user(prompt),), answer=answer, reasoning=reasoning)


# --- arithmetic -------------------------------------------------------------------------------------------------


def _number(rng: random.Random, digits: int) -> int:
    return rng.randint(0 if digits == 1 else 10 ** (digits - 1), 10**digits - 1)


def add_steps(a: int, b: int) -> str:
    """Column addition, lowest digit first, each column with its carry: `5+8+0=13 4+7+1=12 so 123` for 45 + 78."""
    steps: list[str] = []
    carry, x, y = 0, a, b
    while x or y or not steps:
        total = x % 10 + y % 10 + carry
        steps.append(f"{x % 10}+{y % 10}+{carry}={total}")
        x, y, carry = x // 10, y // 10, total // 10
    return f"{' '.join(steps)} so {a + b}"


def subtract_steps(a: int, b: int) -> str:
    """Column subtraction, lowest digit first; `b` after a digit marks a borrow: `4-8-0=6b 5-1-1=3 so 36`: 54 - 18."""
    steps: list[str] = []
    borrow, x, y = 0, a, b
    while x or y or not steps:
        column = x % 10 - y % 10 - borrow
        steps.append(f"{x % 10}-{y % 10}-{borrow}={column % 10}{'b' if column < 0 else ''}")
        x, y, borrow = x // 10, y // 10, int(column < 0)
    return f"{' '.join(steps)} so {a - b}"


def _sum(rng: random.Random, level: int) -> Example:
    a, b = _number(rng, level), _number(rng, level)
    form = rng.choice(
        (
            "What is {a} + {b}?",
            "{a} + {b} =",
            "{a}+{b}",
            "Add {a} and {b}.",
            "Compute the sum of {a} and {b}.",
            "How much is {a} plus {b}?",
            "Please calculate {a} + {b}.",
        )
    )
    return _ask("sum", level, form.format(a=a, b=b), str(a + b), add_steps(a, b))


def _subtract(rng: random.Random, level: int) -> Example:
    b, a = sorted((_number(rng, level), _number(rng, level)))
    form = rng.choice(
        (
            "What is {a} - {b}?",
            "{a} - {b} =",
            "Subtract {b} from {a}.",
            "How much is {a} minus {b}?",
            "Please calculate {a} - {b}.",
        )
    )
    return _ask("subtract", level, form.format(a=a, b=b), str(a - b), subtract_steps(a, b))


def _story(rng: random.Random, level: int) -> Example:
    name, item, size = rng.choice(words.NAMES), rng.choice(words.ITEMS), min(level, 2)
    a, b = _number(rng, size), _number(rng, size)
    total, reasoning = a + b, add_steps(a, b)
    text = f"{name} has {a} {item} and {rng.choice(('buys', 'finds', 'gets'))} {b} more."
    if level > 1:
        c = rng.randint(1, min(99, total))
        reasoning += f". {subtract_steps(total, c)}"
        text += f" Then {name} {rng.choice(('gives away', 'loses', 'sells'))} {c}."
        total -= c
    ask = rng.choice((f"How many {item} does {name} have now?", f"How many {item} are there now?"))
    return _ask("story", level, f"{text} {ask}", str(total), reasoning)


# --- lists and words --------------------------------------------------------------------------------------------


def insertion_steps(numbers: Sequence[int]) -> str:
    """Insertion sort, one line per number taken: the sorted list so far."""
    return "; ".join(" ".join(map(str, sorted(numbers[:n]))) for n in range(1, len(numbers) + 1))


def _sort(rng: random.Random, level: int) -> Example:
    numbers = rng.sample(range(1, 100), level + 2)
    listed = ", ".join(map(str, numbers))
    form = rng.choice(
        (
            "Sort these numbers: {0}",
            "Sort from smallest to largest: {0}",
            "Put these numbers in ascending order: {0}.",
            "Please sort {0}.",
            "{0}\nSort them.",
        )
    )
    answer = ", ".join(map(str, sorted(numbers)))
    return _ask("sort", level, form.format(listed), answer, insertion_steps(numbers))


def _largest(rng: random.Random, level: int) -> Example:
    numbers = rng.sample(range(1, 100) if level == 1 else range(100, 1000), 3 if level == 1 else 6)
    best = [max(numbers[:n]) for n in range(1, len(numbers) + 1)]
    form = rng.choice(
        (
            "Which number is the largest: {0}?",
            "Find the largest number: {0}",
            "What is the maximum of {0}?",
        )
    )
    return _ask("largest", level, form.format(", ".join(map(str, numbers))), str(best[-1]), " ".join(map(str, best)))


def compare_steps(a: int, b: int) -> str:
    """Digits from the left until two differ, the shorter number padded: `0<6 so 5<62`."""
    width = max(len(str(a)), len(str(b)))
    steps = []
    for x, y in zip(str(a).zfill(width), str(b).zfill(width), strict=True):
        steps.append(f"{x}{_sign(x, y)}{y}")
        if x != y:
            break
    return f"{' '.join(steps)} so {a}{_sign(a, b)}{b}"


def _sign(a: Any, b: Any) -> str:
    return "=" if a == b else "<" if a < b else ">"


def _compare(rng: random.Random, level: int) -> Example:
    a, b = rng.sample(range(1, 100) if level == 1 else range(1000, 10000), 2)
    larger = rng.random() < 0.5
    form = rng.choice(("Is {a} {w} than {b}?", "Is the number {a} {w} than {b}? Answer yes or no."))
    answer = "yes" if (a > b) == larger else "no"
    word = rng.choice(("larger", "greater")) if larger else rng.choice(("smaller", "less"))
    return _ask("compare", level, form.format(a=a, b=b, w=word), answer, compare_steps(a, b))


def _phrase(rng: random.Random, count: int) -> list[str]:
    return rng.sample(words.NOUNS + words.ADJECTIVES + words.COLOURS, count)


def _repeat(rng: random.Random, level: int) -> Example:
    """Say something again, word for word: what reading, extracting and reordering rest on."""
    pools: tuple[Callable[[], str], ...] = (
        lambda: rng.choice(words.NOUNS),
        lambda: rng.choice(words.NAMES),
        lambda: str(rng.randint(0, 9999)),
        lambda: _email(rng),
        lambda: _phone(rng),
        lambda: "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 6))),
    )
    count = rng.randint(2, 6) if level == 1 else rng.randint(10, 25)
    phrase = " ".join(rng.choice(pools)() for _ in range(count))
    form = rng.choice(("Repeat: {0}", "Repeat this word for word: {0}", "Say again: {0}", "{0}\nRepeat that."))
    return _ask("repeat", level, form.format(phrase), phrase)


def _reverse(rng: random.Random, level: int) -> Example:
    phrase = _phrase(rng, 3 if level == 1 else 6)
    form = rng.choice(
        (
            "Reverse the order of these words: {0}",
            "Write these words in reverse order: {0}",
            "Say it backwards, word by word: {0}",
        )
    )
    return _ask("reverse", level, form.format(" ".join(phrase)), " ".join(reversed(phrase)))


def _uppercase(rng: random.Random, level: int) -> Example:
    phrase = " ".join(_phrase(rng, rng.randint(1, 2) if level == 1 else rng.randint(3, 5)))
    form = rng.choice(
        ("Write in capital letters: {0}", "Make this uppercase: {0}", "Convert to upper case: {0}", "Uppercase: {0}")
    )
    return _ask("uppercase", level, form.format(phrase), phrase.upper())


def _count(rng: random.Random, level: int) -> Example:
    phrase = _phrase(rng, rng.randint(2, 5) if level == 1 else rng.randint(8, 15))
    form = rng.choice(("How many words are there: {0}", "Count the words: {0}", "How many words does this have? {0}"))
    reasoning = " ".join(f"{n} {word}" for n, word in enumerate(phrase, 1))
    return _ask("count", level, form.format(" ".join(phrase)), str(len(phrase)), reasoning)


# --- reading ----------------------------------------------------------------------------------------------------


def _email(rng: random.Random) -> str:
    first, last = rng.choice(words.NAMES).lower(), rng.choice(words.SURNAMES).lower()
    joint = rng.choice((f"{first}.{last}", f"{first}{last}", f"{first}_{last}", f"{first}{rng.randint(1, 99)}"))
    return f"{joint}@{rng.choice(words.DOMAINS)}"


def _phone(rng: random.Random) -> str:
    return f"{rng.randint(200, 999)}-{rng.randint(0, 9999):04d}"


def _order(rng: random.Random) -> str:
    return f"{rng.choice('ABCDEFGH')}{rng.randint(1000, 99999)}"


def _padded(rng: random.Random, sentences: list[str], filler: int) -> str:
    """The sentences in order, with `filler` meaningless ones strewn between them."""
    text = list(sentences)
    for _ in range(filler):
        text.insert(rng.randint(0, len(text)), rng.choice(words.FILLER))
    return " ".join(text)


def _extract(rng: random.Random, level: int) -> Example:
    name, email, phone, order = rng.choice(words.NAMES), _email(rng), _phone(rng), _order(rng)
    facts = {
        "e-mail address": (email, f"You can write to {name} at {email}.", f"The e-mail address of {name} is {email}."),
        "phone number": (phone, f"Call {name} at {phone}.", f"The phone number of {name} is {phone}."),
        "order number": (order, f"The order number is {order}.", f"{name} asks about order {order}."),
    }
    wanted = "e-mail address" if level == 1 else rng.choice(list(facts))
    chosen = [wanted] if level == 1 else list(facts)
    rng.shuffle(chosen)
    sentences = [rng.choice(facts[fact][1:]) for fact in chosen]
    text = _padded(rng, sentences, (rng.randint(0, 1), rng.randint(0, 3), rng.randint(8, 30))[level - 1])
    form = rng.choice(
        (
            "Extract the {w}: {t}",
            "What is the {w}? {t}",
            "{t}\nWhat is the {w}?",
            "Find the {w} in this text.\n\n{t}",
        )
    )
    return _ask("extract", level, form.format(w=wanted, t=text), facts[wanted][0])


INTENTS: Mapping[str, Sequence[str]] = {
    "refund": ("I want my money back", "please refund my order", "can I get a refund for the {i}"),
    "shipping": ("where is my parcel", "when will the {i} arrive", "my delivery is late"),
    "login": ("I cannot log in", "I forgot my password", "my account is locked"),
    "cancel": ("please cancel my order", "I want to cancel the subscription", "stop my order of {i}"),
    "invoice": ("please send me the invoice", "I need a receipt for the {i}", "the bill has the wrong address"),
    "praise": ("thank you, great service", "I love the {i}", "you helped me a lot"),
}


def _intent(rng: random.Random, level: int) -> Example:
    label = rng.choice(list(INTENTS))
    message = rng.choice(INTENTS[label]).format(i=rng.choice(words.ITEMS))
    if level == 2:
        hello = rng.choice(("Hello", "Hi", "Good morning"))
        opening = f"{hello}, this is {rng.choice(words.NAMES)} from {rng.choice(words.CITIES)}."
        message = f"{opening} {_padded(rng, [message[0].upper() + message[1:] + '.'], rng.randint(1, 2))}"
    names = ", ".join(INTENTS)
    form = rng.choice(
        (
            "Classify the intent ({n}): {m}",
            "Which intent is it: {n}?\n{m}",
            "{m}\nIntent, one of {n}:",
        )
    )
    return _ask("intent", level, form.format(n=names, m=message), label)


GOOD = ("wonderful", "excellent", "lovely", "great", "delicious", "friendly", "perfect", "brilliant")
BAD = ("terrible", "awful", "horrible", "bad", "dirty", "rude", "broken", "disappointing")
SUBJECTS = ("food", "hotel", "film", "service", "room", "book", "concert", "coffee", "staff", "trip")


def _sentiment(rng: random.Random, level: int) -> Example:
    first, second = rng.sample(SUBJECTS, 2)
    if level == 1:
        good = rng.random() < 0.5
        text = f"The {first} was {rng.choice(GOOD if good else BAD)}."
        answer = "positive" if good else "negative"
    else:
        marks = [rng.random() < 0.5, rng.random() < 0.5]
        parts = [f"the {s} was {rng.choice(GOOD if m else BAD)}" for s, m in zip((first, second), marks, strict=True)]
        joint = " and " if marks[0] == marks[1] else ", but "
        text = joint.join(parts).capitalize() + "."
        answer = "mixed" if marks[0] != marks[1] else "positive" if marks[0] else "negative"
    form = rng.choice(
        (
            "Is this positive, negative or mixed? {0}",
            "Sentiment of this review: {0}",
            "What is the sentiment? {0}",
            "{0}\nSentiment:",
        )
    )
    return _ask("sentiment", level, form.format(text), answer)


def _json(rng: random.Random, level: int) -> Example:
    name, age, city, job = (
        rng.choice(words.NAMES),
        rng.randint(18, 90),
        rng.choice(words.CITIES),
        rng.choice(words.JOBS),
    )
    if level == 1:
        text = rng.choice((f"{name} is {age} years old.", f"{name}, {age}.", f"This is {name}, aged {age}."))
        record: dict[str, Any] = {"name": name, "age": age}
    else:
        text = rng.choice(
            (
                f"{name} is {age} years old, lives in {city} and works as a {job}.",
                f"{name} from {city} is a {job}, {age} years old.",
                f"My neighbour {name}, a {job} of {age}, lives in {city}.",
            )
        )
        record = {"name": name, "age": age, "city": city, "job": job}
    keys = ", ".join(record)
    form = rng.choice(("Give {k} as JSON: {t}", "Return a JSON object with {k}: {t}", "{t}\nWrite {k} as JSON."))
    return _ask("json", level, form.format(k=keys, t=text), json.dumps(record))


def _facts(rng: random.Random, people: int) -> list[tuple[str, str, str]]:
    """`(person, kind of fact, value)` for as many people, all different."""
    chosen = rng.sample(words.NAMES, people)
    pools = {"city": words.CITIES, "job": words.JOBS, "colour": words.COLOURS}
    return [(person, kind, rng.choice(pools[kind])) for person in chosen for kind in (rng.choice(list(pools)),)]


FACT_FORMS = {
    "city": "{p} lives in {v}.",
    "job": "{p} works as a {v}.",
    "colour": "The favourite colour of {p} is {v}.",
}
QUESTIONS = {
    "city": ("Where does {p} live?", "In which city does {p} live?"),
    "job": ("What is the job of {p}?", "What does {p} do for work?"),
    "colour": ("What is the favourite colour of {p}?", "Which colour does {p} like best?"),
}


def _question(rng: random.Random, level: int) -> Example:
    """Answerable and unanswerable questions about a text: the model must know when it does not know."""
    facts = _facts(rng, 3 if level == 1 else 6)
    person, kind, value = rng.choice(facts)
    if rng.random() < 0.5:  # ask for what the text does not say
        value = UNKNOWN
        if rng.random() < 0.5:
            person = rng.choice([n for n in words.NAMES if n not in {f[0] for f in facts}])
        else:
            kind = rng.choice([k for k in FACT_FORMS if k != kind])
    text = _padded(rng, [FACT_FORMS[k].format(p=p, v=v) for p, k, v in facts], 0 if level == 1 else rng.randint(0, 6))
    question = rng.choice(QUESTIONS[kind]).format(p=person)
    known = [FACT_FORMS[k].format(p=p, v=v) for p, k, v in facts if p == person]
    form = rng.choice(("{t}\n{q}", "Read this: {t}\nNow answer: {q}", "{q}\n\n{t}"))
    reasoning = known[0] if known else f"Nothing about {person}."
    return _ask("question", level, form.format(t=text, q=question), value, reasoning)


# --- conversation -----------------------------------------------------------------------------------------------

GREETINGS: Sequence[tuple[Sequence[str], str]] = (
    (("Hello", "Hi", "Hey", "Good morning", "Hi there", "Hello there"), "Hello! What can I do for you?"),
    (("Thanks", "Thank you", "Thank you very much", "Great, thanks"), "You are welcome."),
    (("Bye", "Goodbye", "See you"), "Goodbye!"),
    (("Who are you", "What are you", "What is your name"), "I am a small Foreshore starter model."),
    (
        ("What can you do", "Help", "How can you help me"),
        "I can add, sort, count, extract, classify, write JSON and call tools.",
    ),
)


def _greeting(rng: random.Random, level: int) -> Example:
    prompts, answer = rng.choice(GREETINGS)
    prompt = rng.choice(prompts) + rng.choice(("", "!", ".", "?", " :)"))
    return _ask("greeting", level, rng.choice((prompt, prompt.lower())), answer)


def _memory(rng: random.Random, level: int) -> Example:
    """Something said earlier in the conversation is asked for later."""
    kind = rng.choice(("name", "city", "colour"))
    value = rng.choice({"name": words.NAMES, "city": words.CITIES, "colour": words.COLOURS}[kind])
    told = {
        "name": (f"My name is {value}.", f"I am {value}.", f"You can call me {value}."),
        "city": (f"I live in {value}.", f"My home is in {value}."),
        "colour": (f"My favourite colour is {value}.", f"I like {value} best of all colours."),
    }
    asked = {
        "name": ("What is my name?", "Do you remember my name?"),
        "city": ("Where do I live?", "Which city do I live in?"),
        "colour": ("What is my favourite colour?", "Which colour do I like best?"),
    }
    turns: list[Mapping[str, Any]] = [_user(rng.choice(told[kind])), _assistant("Good to know.")]
    for _ in range(level - 1):
        between = rng.choice((_uppercase, _sentiment, _intent))(rng, 1)
        turns += [*between.messages, _assistant(between.answer)]
    return Example(task="memory", level=level, messages=(*turns, _user(rng.choice(asked[kind]))), answer=value)


def _system_prompt(rng: random.Random, level: int) -> Example:
    """A system prompt sets the persona (level 1) or the form of the answer (level 2)."""
    if level == 1:
        name = rng.choice(words.NAMES)
        system = rng.choice(("Your name is {0}.", "You are an assistant named {0}.", "You are {0}.")).format(name)
        question = rng.choice(("Who are you?", "What is your name?", "What are you called?"))
        return Example(task="system", level=1, messages=(_system(system), _user(question)), answer=f"I am {name}.")
    inner = rng.choice((_sentiment, _intent, _reverse))(rng, 1)
    loud = rng.random() < 0.5
    system = (
        rng.choice(("Answer in capital letters.", "Always answer in upper case."))
        if loud
        else rng.choice(("You are a helpful assistant.", "Answer briefly."))
    )
    answer = inner.answer.upper() if loud else inner.answer
    return Example(task="system", level=2, messages=(_system(system), *inner.messages), answer=answer)


def _tool(name: str, description: str, **properties: str) -> dict[str, Any]:
    schema = {
        "type": "object",
        "properties": {key: {"type": kind} for key, kind in properties.items()},
        "required": list(properties),
    }
    return {"type": "function", "function": {"name": name, "description": description, "parameters": schema}}


TOOLS = {
    "get_weather": _tool("get_weather", "Current weather in a city", city="string"),
    "set_timer": _tool("set_timer", "Start a timer", minutes="integer"),
    "send_email": _tool("send_email", "Send an e-mail", to="string", subject="string"),
    "find_order": _tool("find_order", "Look up an order", order="string"),
}


def _tool_request(rng: random.Random, name: str) -> tuple[str, dict[str, Any]]:
    """What the user says, and the arguments it calls for."""
    if name == "get_weather":
        city = rng.choice(words.CITIES)
        forms: tuple[str, ...] = (
            "What is the weather in {0}?",
            "How is the weather in {0} today?",
            "Is it raining in {0}?",
        )
        return rng.choice(forms).format(city), {"city": city}
    if name == "set_timer":
        minutes = rng.randint(1, 99)
        forms = ("Set a timer for {0} minutes.", "Wake me in {0} minutes.", "Start a timer of {0} minutes.")
        return rng.choice(forms).format(minutes), {"minutes": minutes}
    if name == "send_email":
        to, subject = _email(rng), " ".join(_phrase(rng, 2))
        forms = ("Send an e-mail to {0} about {1}.", "Write to {0}, subject: {1}")
        return rng.choice(forms).format(to, subject), {"to": to, "subject": subject}
    order = _order(rng)
    return rng.choice(("Where is order {0}?", "Find order {0}.", "Look up order {0}.")).format(order), {"order": order}


def _tool_call(rng: random.Random, level: int) -> Example:
    """Level 1: one tool; 2: choose among several; 3: read the tool's result and answer."""
    if level == 3:
        return _tool_result(rng)
    offered = rng.sample(list(TOOLS), 1 if level == 1 else 3)
    name = rng.choice(offered)
    text, arguments = _tool_request(rng, name)
    tools = tuple(TOOLS[tool] for tool in offered)
    call = {"name": name, "arguments": arguments}
    return Example(task="tool", level=level, messages=(_user(text),), tools=tools, call=call)


def _tool_result(rng: random.Random) -> Example:
    text, arguments = _tool_request(rng, "get_weather")
    degrees, sky = rng.randint(-9, 35), rng.choice(("sunny", "cloudy", "rainy", "windy", "snowy"))
    call = {"id": "call_0", "type": "function"}
    call_function = {"name": "get_weather", "arguments": json.dumps(arguments)}
    messages = (
        _user(text),
        {"role": "assistant", "content": "", "tool_calls": [{**call, "function": call_function}]},
        {"role": "tool", "tool_call_id": "call_0", "content": json.dumps({"degrees": degrees, "sky": sky})},
    )
    answer = f"It is {sky} in {arguments['city']}, {degrees} degrees."
    return Example(task="tool", level=3, messages=messages, tools=(TOOLS["get_weather"],), answer=answer)


Maker = Callable[[random.Random, int], Example]
TASKS: Mapping[str, tuple[Maker, Sequence[Difficulty]]] = {
    "sum": (_sum, ("easy", "hard", "hard", "hard")),  # digits of each number
    "subtract": (_subtract, ("easy", "hard", "hard")),  # digits of each number
    "story": (_story, ("easy", "hard")),  # steps
    "sort": (_sort, ("easy", "medium", "hard", "hard")),  # 3 to 6 numbers
    "largest": (_largest, ("easy", "medium")),
    "compare": (_compare, ("medium", "hard")),
    "repeat": (_repeat, ("easy", "medium")),
    "reverse": (_reverse, ("easy", "easy")),
    "uppercase": (_uppercase, ("easy", "easy")),
    "count": (_count, ("easy", "hard")),  # 2 to 5 words, 8 to 15
    "extract": (_extract, ("easy", "easy", "medium")),
    "intent": (_intent, ("easy", "easy")),
    "sentiment": (_sentiment, ("easy", "easy")),
    "json": (_json, ("easy", "easy")),
    "question": (_question, ("medium", "hard")),
    "greeting": (_greeting, ("easy",)),
    "memory": (_memory, ("easy", "easy", "medium")),
    "system": (_system_prompt, ("easy", "easy")),
    "tool": (_tool_call, ("easy", "easy", "easy")),
}
