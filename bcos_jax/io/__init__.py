"""Files: saved networks (bundles), safetensors, repositories of the Hugging Face hub."""
