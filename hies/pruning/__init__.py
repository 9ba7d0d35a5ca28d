"""From scores to the heads that go, and to a smaller model, in memory and on disk."""
