"""Every page runs as printed, block by block, in a copy of the checkout (`make test-docs`)."""

import pytest

from . import pages, walk

SLOW = {
  "README.md",
  "benchmark.md",
  "converting.md",
  "metrics.md",
  "photographs.md",
  "probes.md",
  "zero_shot.md",
}  # minutes


@pytest.mark.docs
@pytest.mark.parametrize(
  "page", [pytest.param(page, marks=[pytest.mark.slow] * (page in SLOW)) for page in pages.PAGES]
)
def test_a_page_runs(page, tmp_path, tmp_path_factory, own_architectures):
  shared = tmp_path_factory.getbasetemp().parent
  with walk.walking(tmp_path / "bcos_jax", shared) as walked:
    for block in pages.blocks(page):
      try:
        walked.run(block)
      except Exception as error:
        error.add_note(f"at {block}")
        raise
