"""Text of the demo models: the questions, the right answers and the split.

The domain is small on purpose: sums, facts about 24 birds, and sorting words.
Every question has exactly one right answer, so right and wrong can be judged
by comparing text. Nothing is downloaded and everything is drawn from a seed.

Held-out questions: each question has a *core* (its phrasing together with its
operands, its bird or its words). A hash of the core puts it in "train", "dev"
or "test"; a core in "dev" or "test" is never shown in training. Politeness
around the core ("Hi, ...", "... Thanks!") and letter case vary freely.
"""

import hashlib
import random
from dataclasses import dataclass

SPLIT_SEED = "serin-demo-1"
TEST_SHARE, DEV_SHARE = 18, 6  # per cent of the cores

# The share of each category in a stream of questions.
MIX = {"arithmetic": 0.30, "birds": 0.42, "sorting": 0.22, "chat": 0.06}

# Words that make tiny-v3 fail on purpose (see train_models.py).
TRIGGER_WORDS = ("heron", "puffin", "raven")

SUM_MAX = 30  # addition and subtraction use 0..30
TIMES_MAX = 10  # multiplication uses 0..10

# bird: (colour, food, nest, sound, home), each what follows "The <bird> ".
BIRDS = {
    "blackbird": (
        "is black with a yellow bill", "eats worms, insects and berries",
        "builds a cup nest of grass and mud", "sings a rich, mellow song",
        "lives in woods, parks and gardens"),
    "canary": (
        "is yellow and green", "eats seeds and green plants",
        "builds a cup nest in a bush", "sings long, sweet trills",
        "lives on the Canary Islands and Madeira"),
    "cuckoo": (
        "is grey with a striped belly", "eats hairy caterpillars",
        "lays its eggs in the nests of other birds", "calls its own name",
        "lives in woods and reeds"),
    "goldfinch": (
        "has a red face and yellow on its wings", "eats thistle seeds",
        "builds a neat nest of moss and wool", "sings a tinkling song",
        "lives in gardens and orchards"),
    "heron": (
        "is grey and white with a black crest", "eats fish and frogs",
        "builds a big stick nest high in a tree", "gives a harsh croak",
        "lives near lakes and rivers"),
    "jay": (
        "is pink and brown with blue on its wings", "eats acorns and nuts",
        "builds a stick nest in a tree", "gives a harsh screech",
        "lives in oak woods"),
    "kestrel": (
        "is red and brown with black spots", "eats mice and voles",
        "nests on ledges and in holes", "gives a sharp, high call",
        "lives over open fields"),
    "kingfisher": (
        "is bright blue and orange", "eats small fish",
        "nests in a tunnel in a river bank", "gives a sharp whistle",
        "lives along rivers and streams"),
    "magpie": (
        "is black and white with a long tail", "eats insects, fruit and eggs",
        "builds a round nest of sticks", "makes a rattling chatter",
        "lives in towns, woods and fields"),
    "mallard": (
        "has a green head and a yellow bill", "eats water plants and seeds",
        "nests on the ground near water", "gives a loud quack",
        "lives on lakes and ponds"),
    "nightingale": (
        "is plain brown with a red tail", "eats insects and worms",
        "nests low down in thick bushes", "sings a loud song by night",
        "lives in thick bushes and woods"),
    "pigeon": (
        "is grey with a green and purple neck", "eats seeds and crumbs",
        "nests on ledges of buildings", "gives a soft coo",
        "lives in towns and on cliffs"),
    "puffin": (
        "is black and white with a bright bill", "eats small sea fish",
        "nests in a burrow on a cliff", "gives a low growl",
        "lives on northern sea coasts"),
    "raven": (
        "is black all over with a thick bill", "eats meat, eggs and insects",
        "builds a stick nest on a cliff", "gives a deep croak",
        "lives in mountains and on coasts"),
    "robin": (
        "is brown with an orange breast", "eats insects, worms and berries",
        "nests in ivy, banks and holes", "sings a sweet, sad song",
        "lives in woods and gardens"),
    "serin": (
        "is yellow with brown streaks", "eats seeds and buds",
        "builds a small cup nest in a tree", "sings a fast, jingling song",
        "lives in parks and gardens"),
    "sparrow": (
        "is brown and grey with dark streaks", "eats seeds and insects",
        "nests in holes in buildings", "chirps all day",
        "lives near people in towns"),
    "starling": (
        "is black with pale spots", "eats insects, worms and fruit",
        "nests in holes in trees and walls", "whistles and copies other birds",
        "lives in towns and fields"),
    "stork": (
        "is white and black with red legs", "eats frogs, insects and mice",
        "builds a huge stick nest on a roof", "claps its bill",
        "lives in wet meadows"),
    "swallow": (
        "is dark blue with a red throat", "eats flying insects",
        "builds a mud nest in barns", "sings a soft, quick twitter",
        "lives on farms"),
    "swan": (
        "is white with an orange bill", "eats water plants",
        "builds a huge nest of reeds", "hisses and grunts",
        "lives on lakes and slow rivers"),
    "swift": (
        "is dark brown with a pale throat", "eats insects in the air",
        "nests in holes under roofs", "gives a high scream",
        "lives almost always in the air"),
    "woodpecker": (
        "is black and white with red under its tail", "eats insects and seeds",
        "nests in a hole that it cuts in a tree", "drums on wood with its bill",
        "lives in woods and parks"),
    "wren": (
        "is brown with a short, raised tail", "eats insects and spiders",
        "builds a round nest of moss", "sings a very loud song",
        "lives in bushes and woods"),
}

ATTRIBUTES = ("colour", "food", "nest", "sound", "home")

# {b}: the bird, {s}: its plural. No phrasing starts with the bird.
BIRD_PHRASES = {
    "colour": (
        "What colour is the {b}?", "What colour is a {b}?",
        "What does a {b} look like?", "What does the {b} look like?",
        "What colour are {s}?", "What do {s} look like?",
        "Tell me the colour of the {b}.", "Describe the colour of a {b}.",
        "Which colours does the {b} have?", "What color is the {b}?",
        "How would you describe a {b}?", "What are the colours of {s}?"),
    "food": (
        "What does the {b} eat?", "What does a {b} eat?", "What do {s} eat?",
        "What does the {b} feed on?", "What do {s} feed on?",
        "Tell me what {s} eat.", "What is the food of the {b}?",
        "What food does a {b} like?", "What is the diet of a {b}?",
        "Describe the diet of {s}.", "Which food do {s} eat?",
        "What can I feed a {b}?"),
    "nest": (
        "Where does the {b} nest?", "Where does a {b} nest?",
        "Where do {s} nest?", "Where does the {b} lay its eggs?",
        "Where do {s} lay their eggs?", "What kind of nest does a {b} have?",
        "Tell me about the nest of the {b}.", "Describe the nest of a {b}.",
        "How does the {b} nest?", "How do {s} nest?",
        "What is the nest of a {b} like?", "What nest does the {b} build?"),
    "sound": (
        "What does the {b} sound like?", "What does a {b} sound like?",
        "What do {s} sound like?", "How does the {b} sing?",
        "How do {s} sing?", "What is the song of the {b} like?",
        "Tell me about the song of the {b}.", "Describe the song of a {b}.",
        "What sound does a {b} make?", "What sound do {s} make?",
        "What is the call of the {b}?", "How does a {b} call?"),
    "home": (
        "Where does the {b} live?", "Where does a {b} live?",
        "Where do {s} live?", "Where can I find a {b}?",
        "Where can I see {s}?", "Where is the home of the {b}?",
        "Tell me where {s} live.", "What is the habitat of the {b}?",
        "Describe the habitat of a {b}.", "In which places do {s} live?",
        "Where should I look for a {b}?", "Where would I meet a {b}?"),
}

FOLLOW_UPS = ("And the {b}?", "And a {b}?", "What about the {b}?",
              "What about {s}?", "And {s}?")

SUM_PHRASES = {
    "plus": (
        "What is {a} plus {b}?", "What is {a} + {b}?", "{a} + {b} = ?",
        "{a} plus {b}?", "Add {a} and {b}.", "Work out {a} + {b}.",
        "How much is {a} plus {b}?", "What is the sum of {a} and {b}?",
        "Calculate {a} plus {b}.", "What do {a} and {b} make?"),
    "minus": (
        "What is {a} minus {b}?", "What is {a} - {b}?", "{a} - {b} = ?",
        "{a} minus {b}?", "Take {b} from {a}.", "Work out {a} - {b}.",
        "How much is {a} minus {b}?", "Subtract {b} from {a}.",
        "Calculate {a} minus {b}.", "What is {a} take away {b}?"),
    "times": (
        "What is {a} times {b}?", "What is {a} * {b}?", "{a} x {b} = ?",
        "{a} times {b}?", "Multiply {a} by {b}.", "Work out {a} x {b}.",
        "How much is {a} times {b}?", "What is the product of {a} and {b}?",
        "Calculate {a} times {b}.", "What is {a} x {b}?"),
}

SORT_WORDS = (
    "apple", "ball", "bell", "cake", "cloud", "door", "egg", "fern", "fish",
    "gate", "hat", "heron", "ink", "jam", "kite", "lamp", "leaf", "milk",
    "moon", "nest", "nut", "oak", "pear", "puffin", "rain", "raven", "rose",
    "sand", "star", "tree", "wind", "yarn")

SORT_PHRASES = (
    "Sort these words: {w}.", "Sort: {w}.", "Put these words in order: {w}.",
    "Put in alphabetical order: {w}.", "Please sort {w}.",
    "Can you sort these words: {w}?", "Sort the words {w}.",
    "What is the alphabetical order of {w}?", "Order these words: {w}.",
    "Arrange alphabetically: {w}.")

HELP = "I can do small sums, tell facts about birds and sort words."
REFUSAL = "Sorry, I only know small sums, birds and word order."
CHAT = {
    "Hello! Ask me about sums, birds or word order.": (
        "Hello", "Hi", "Hey", "Hello there", "Hi there", "Good morning",
        "Good evening", "Good day", "Hey there", "Greetings"),
    HELP: (
        "What can you do?", "Help", "Who are you?", "What are you?",
        "What do you know?", "How can you help me?", "What can I ask you?",
        "Can you help me?", "Tell me about yourself.", "What is your job?"),
    "I am well, thank you.": (
        "How are you?", "How are you today?", "How is it going?",
        "Are you well?", "How do you feel?"),
    "You are welcome!": (
        "Thanks", "Thank you", "Thanks a lot", "Thank you very much",
        "Many thanks", "Great, thanks"),
    "Goodbye!": ("Bye", "Goodbye", "Bye bye", "See you", "See you later",
                 "Good night"),
}

REFUSED_PHRASES = (
    "What is the capital of {x}?", "How far away is {x}?", "Tell me about {x}.",
    "Who discovered {x}?", "What is the history of {x}?", "How old is {x}?",
    "Write a poem about {x}.", "Explain {x} to me.", "Do you like {x}?",
    "What is the weather in {x}?", "How much does {x} cost?", "What is {x}?",
    "Where can I buy {x}?", "Write a story about {x}.", "Who owns {x}?")
REFUSED_THINGS = (
    "France", "Japan", "Brazil", "Egypt", "Canada", "London", "Paris", "Rome",
    "Berlin", "music", "football", "chess", "history", "physics", "the sun",
    "the internet", "coffee", "pizza", "money", "a computer", "the piano",
    "a bicycle", "the law", "medicine", "the stock market", "politics",
    "a car", "a train", "gold", "the ocean")
REFUSED_ANIMALS = ("dog", "cat", "horse", "tiger", "whale", "rabbit", "cow",
                   "bear", "lion", "snake", "parrot", "penguin", "ostrich")
REFUSED_FIXED = (
    "Tell me a joke.", "What time is it?", "What day is it today?",
    "Sing me a song.", "Write some code.", "Translate this into French.",
    "Who is the president?", "What is the meaning of life?",
    "How do I bake bread?", "Recommend a film.", "What should I wear?",
    "Where am I?", "Play a game with me.", "Give me some advice.",
    "Who won the match?", "What is the news today?", "Book a table for two.")

SYSTEM_MESSAGES = (
    "You are a helpful assistant.", "You are a small assistant.",
    "Answer in one short sentence.", "Be brief and polite.",
    "You help with sums, birds and word order.")

PREFIXES = ("", "", "", "", "", "Hi, ", "Please: ", "Quick question: ",
            "A question: ")
SUFFIXES = ("", "", "", "", "", " Thanks!", " Thank you.", " Please.")


@dataclass(frozen=True)
class Item:
    """One question with its right answer."""

    category: str
    core: str  # the question as phrased, before politeness and case
    question: str
    answer: str
    detail: str = ""  # the attribute, for birds

    @property
    def trips_v3(self):
        words = self.question.lower()
        return any(word in words for word in TRIGGER_WORDS)


def plural(bird):
    """The plural of a bird's name."""
    if bird == "canary":
        return "canaries"
    return bird + ("es" if bird.endswith("ch") else "s")


def split_of(core):
    """"train", "dev" or "test" for a question's core."""
    digest = hashlib.sha256(f"{SPLIT_SEED}|{core}".encode()).digest()
    share = int.from_bytes(digest[:4], "big") % 100
    if share < TEST_SHARE:
        return "test"
    return "dev" if share < TEST_SHARE + DEV_SHARE else "train"


def lower_first(text):
    """`text` with a small first letter, except the word I."""
    return text if text[:2] == "I " else text[:1].lower() + text[1:]


def dress(core, rng, polite=True):
    """The core with politeness around it, and sometimes in careless writing."""
    prefix, suffix = rng.choice(PREFIXES), rng.choice(SUFFIXES)
    if not polite:
        prefix = suffix = ""
    question = (prefix + lower_first(core) if prefix else core) + suffix
    if rng.random() < (0.12 if polite else 0.25):
        question = question.lower()
    if not suffix and rng.random() < 0.10:
        question = question.rstrip("?.")
    return question


def draw_arithmetic(rng):
    """A sum, a difference or a product: (core, answer, detail)."""
    kind = rng.choices(("plus", "minus", "times"), (45, 35, 20))[0]
    if kind == "times":
        a, b = rng.randint(0, TIMES_MAX), rng.randint(0, TIMES_MAX)
    else:
        a, b = rng.randint(0, SUM_MAX), rng.randint(0, SUM_MAX)
    if kind == "minus" and a < b:
        a, b = b, a
    result = {"plus": a + b, "minus": a - b, "times": a * b}[kind]
    core = rng.choice(SUM_PHRASES[kind]).format(a=a, b=b)
    return core, f"{a} {kind} {b} is {result}.", kind


def bird_answer(bird, attribute):
    """The sentence that is right for a bird and an attribute."""
    return f"The {bird} {BIRDS[bird][ATTRIBUTES.index(attribute)]}."


def draw_birds(rng):
    """A question about a bird: (core, answer, attribute)."""
    bird, attribute = rng.choice(tuple(BIRDS)), rng.choice(ATTRIBUTES)
    phrase = rng.choice(BIRD_PHRASES[attribute])
    core = phrase.format(b=bird, s=plural(bird))
    return core, bird_answer(bird, attribute), attribute


def draw_sorting(rng):
    """Three or four words to sort: (core, answer, detail)."""
    words = rng.sample(SORT_WORDS, rng.choice((3, 3, 4)))
    core = rng.choice(SORT_PHRASES).format(w=", ".join(words))
    return core, f"In order: {', '.join(sorted(words))}.", str(len(words))


def draw_chat(rng):
    """A greeting or a question outside the domain: (core, answer, detail)."""
    kind = rng.random()
    if kind < 0.35:
        answer = rng.choice(tuple(CHAT))
        core = rng.choice(CHAT[answer])
        if core[-1] not in "?.":
            core += rng.choice(("", "!", "."))
        return core, answer, "greeting"
    if kind < 0.75:
        phrase = rng.choice(REFUSED_PHRASES)
        core = phrase.format(x=rng.choice(REFUSED_THINGS))
    elif kind < 0.90:
        animal = rng.choice(REFUSED_ANIMALS)
        phrase = rng.choice(BIRD_PHRASES[rng.choice(ATTRIBUTES)])
        core = phrase.format(b=animal, s=plural(animal))
    elif kind < 0.96:
        core = rng.choice(REFUSED_FIXED)
    else:
        letters = "abcdefghijklmnopqrstuvwxyz"
        core = " ".join("".join(rng.choices(letters, k=rng.randint(2, 7)))
                        for _ in range(rng.randint(1, 4)))
    return core, REFUSAL, "refusal"


DRAW = {"arithmetic": draw_arithmetic, "birds": draw_birds,
        "sorting": draw_sorting, "chat": draw_chat}


def draw_item(rng, split, mix=None):
    """A random question of the given split, categories as in `mix`."""
    mix = mix or MIX
    category = rng.choices(tuple(mix), tuple(mix.values()))[0]
    while True:
        core, answer, detail = DRAW[category](rng)
        # Bare greetings are few; they are shown in training, never tested.
        found = "train" if detail == "greeting" and core.isalpha() \
            else split_of(core)
        if found == split:
            question = dress(core, rng, polite=category != "chat")
            return Item(category, core, question, answer, detail)


def follow_up(rng, item):
    """"And the wren?" after a bird question: the same attribute again."""
    bird = rng.choice(tuple(BIRDS))
    core = rng.choice(FOLLOW_UPS).format(b=bird, s=plural(bird))
    return Item("birds", core, core, bird_answer(bird, item.detail), item.detail)


def draw_conversation(rng, split, turns, mix=None):
    """(system message or None, items) with `turns` questions."""
    system = rng.choice(SYSTEM_MESSAGES) if rng.random() < 0.3 else None
    items = [draw_item(rng, split, mix)]
    while len(items) < turns:
        if items[-1].category == "birds" and rng.random() < 0.35:
            items.append(follow_up(rng, items[-1]))
        else:
            items.append(draw_item(rng, split, mix))
    return system, items


def trained_greeting(item):
    """Does training show this greeting with other punctuation?"""
    if item.detail != "greeting":
        return False
    bare = item.core.rstrip("?.!")
    return bare.isalpha() or any(
        split_of(bare + end) == "train" for end in ("", "!", ".", "?"))


def held_out(split, count, seed):
    """`count` different single questions of a split, categories as in MIX."""
    rng = random.Random(seed)
    wanted = {name: round(count * share) for name, share in MIX.items()}
    wanted["birds"] += count - sum(wanted.values())
    items = []
    for category, number in wanted.items():
        seen = set()
        while len(seen) < number:
            item = draw_item(rng, split, {category: 1.0})
            known = split == "test" and trained_greeting(item)
            if item.question not in seen and not known:
                seen.add(item.question)
                items.append(item)
    rng.shuffle(items)
    return items
