"""The REST service: resources, what they answer, and who may ask (falcon)."""
