"""What the studies share: claims, records of several seeds, laws held against differences, onsets."""
