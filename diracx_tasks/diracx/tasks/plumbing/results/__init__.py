"""What came of a task: kept in a bucket for whoever asks for it."""
