"""Small tokenizers for tests, built here and saved in the format of transformers."""

import pathlib

WORDS = "a an photo of the dog cat car sky red green drawing ."
CLIP_END, SIGLIP_END = 49, 1


def clip(folder: pathlib.Path, size: int = 50, **options) -> pathlib.Path:
  """Saves a CLIP tokenizer of whole words, and letters, without merges of its own alphabet."""
  from transformers import CLIPTokenizer

  letters = "abcdefghijklmnopqrstuvwxyz.,"
  vocab = [*letters, *(f"{letter}</w>" for letter in letters)][: size - 2]
  vocab += [f"<{i}>" for i in range(size - 2 - len(vocab))]
  vocab += ["<|startoftext|>", "<|endoftext|>"]
  tokenizer = CLIPTokenizer(vocab={word: i for i, word in enumerate(vocab)}, merges=[], **options)
  tokenizer.save_pretrained(folder)
  return folder


def words(folder: pathlib.Path, size: int = 50, *, pad: str | None = "<pad>") -> pathlib.Path:
  """Saves a tokenizer of whole words that ends texts with </s>, as SigLIP's does."""
  from tokenizers import Tokenizer, models, pre_tokenizers, processors
  from transformers import PreTrainedTokenizerFast

  known = ["<pad>", "</s>", "<unk>", *WORDS.split()]
  known += [f"<{i}>" for i in range(size - len(known))]
  backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(known)}, unk_token="<unk>"))
  backend.pre_tokenizer = pre_tokenizers.Sequence(
    [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()]
  )
  backend.post_processor = processors.TemplateProcessing(
    single="$A </s>", special_tokens=[("</s>", SIGLIP_END)]
  )
  tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=backend, eos_token="</s>", unk_token="<unk>", pad_token=pad
  )
  tokenizer.save_pretrained(folder)
  return folder


def wordpieces(folder: pathlib.Path, size: int = 60) -> pathlib.Path:
  """Saves a tokenizer of lower-case word pieces with BERT's special tokens, ids 0 to 4."""
  from transformers import BertTokenizerFast

  known = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *". , ! ? ' - ##s ##ing ##ny".split()]
  known += "a an the film movie was is not very fun good bad watch don t and but it".split()
  known += [f"<{i}>" for i in range(size - len(known))]
  folder.mkdir(parents=True, exist_ok=True)
  (folder / "vocab.txt").write_text("\n".join(known), encoding="utf-8")
  tokenizer = BertTokenizerFast(vocab=str(folder / "vocab.txt"))
  tokenizer.save_pretrained(folder)
  (folder / "vocab.txt").unlink()
  return folder


def letters(folder: pathlib.Path) -> pathlib.Path:
  """Saves a tokenizer of bytes and a few words, without padding token, as GPT-2's; 261 ids."""
  from tokenizers import Tokenizer, decoders, models, pre_tokenizers
  from transformers import PreTrainedTokenizerFast

  known = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "is", "Ġis", "ar", "are", "<|endoftext|>"]
  merges = [("i", "s"), ("Ġ", "is"), ("a", "r"), ("ar", "e")]
  vocab = {word: i for i, word in enumerate(known)}
  backend = Tokenizer(models.BPE(vocab=vocab, merges=merges))
  backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  backend.decoder = decoders.ByteLevel()
  end = "<|endoftext|>"
  tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=backend, eos_token=end, bos_token=end, unk_token=end
  )
  tokenizer.save_pretrained(folder)
  return folder
