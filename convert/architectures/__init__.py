"""Key tables and configuration readers, one module per architecture."""
