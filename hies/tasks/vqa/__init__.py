"""Visual question answering: VizWiz, MM-Vet and what they share."""
