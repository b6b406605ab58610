"""Everything that can be set, as plain records without torch; behaviour is built from them elsewhere, once."""
