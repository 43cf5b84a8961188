"""Video: follow objects through a clip, label its frames without flicker."""
