"""Labels and maps made better by the photo itself: arrays in, arrays out."""
