"""What any forecast must beat."""
