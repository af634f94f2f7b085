"""What structured.py sends: schemas as users write them (own), those of the JSON Schema Test Suite (suite), schemas and
grammars that are meant to hurt (attacks); and the validator of the replies (judge)."""
