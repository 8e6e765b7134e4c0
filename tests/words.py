"""Words and a lexicon for made-up texts, in the vocabulary of the small model."""

from sevlm.lexicon.lexicon import Lexicon
from sevlm.models.tokenizer import load_tokenizer
from sevlm.utils import asset

TOKENIZER = load_tokenizer(asset("mini"))
LEXICON = Lexicon({"sky": (0.5, -0.2, 0.1), "dark": (-0.5, 0.2, 0.0), "water": (0.3, -0.3, 0.2)})
WORDS = "the sky looks so dark and calm over water".split()
EMOTIONS = ("awe", "contentment", "fear", "something else")
