"""The maths of face recognition: margins of the angle between an embedding and the centers of identities."""
