"""Small vision-language models, trained on pictures with honest names, to test the choice between such models."""
