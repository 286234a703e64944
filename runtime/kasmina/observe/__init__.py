"""What a run tells: the event log, the live view that follows it, the report made from it."""
