"""Parts that several studies share: claims, gathered records, laws, onsets, initial networks and predictors."""
