"""Floor 0: devices, meshes and what runs over them."""
