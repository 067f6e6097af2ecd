"""Images and clips to payloads and back: knows no vehicle, round, Ray, Flower or YAML."""
