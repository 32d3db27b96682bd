"""What verbs load and write.

    folder, or recipe with checkpoint ──► model, tokenizer, renderer          weights ──► checkpoint folder

Images and videos named on the command line are read here as well.
"""
