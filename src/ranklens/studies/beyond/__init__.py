"""Studies that go beyond the talk: other architectures, each with its own notion of rank."""
