"""Boot: an image on its platform becomes evidence, and evidence findings."""
