"""HTTP over the engine: OpenAI's API, and frames of a text that is being written. Needs the extra `serve`."""
