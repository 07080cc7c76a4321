"""USB: host controllers and devices that are plugged into them."""
