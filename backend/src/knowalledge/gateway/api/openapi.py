"""What the OpenAPI document says of answers in every dialect."""

# Headers of an answer from a model.
ANSWER_HEADERS = (
    "X-Request-ID",
    "X-Priority",
    "RateLimit",
    "RateLimit-Policy",
    "Cache-Status",
    "X-Target",
    "X-Degraded",
)
