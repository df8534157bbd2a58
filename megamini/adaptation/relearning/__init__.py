"""What a recipe of `launch/adapt.py` is to do: checked and costed, with the model that learns."""
