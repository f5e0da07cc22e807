"""Your own code: models, feature functions and sources. Nothing of ours is here."""
