"""The backbone that both tracks share."""
