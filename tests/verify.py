"""Checks a delivered request with a provider's own library.

    verify.py stripe|standardwebhooks SECRET TOLERANCE_S < request

The request is its header fields as a JSON object, a newline, and the body. Prints "ok", or why the
library refuses it.
"""

import json
import sys


def check_stripe(secret: str, tolerance_s: int, fields: dict[str, str], body: bytes) -> None:
    import stripe

    signature = fields["stripe-signature"]
    stripe.WebhookSignature.verify_header(body.decode("utf-8"), signature, secret, tolerance_s)


def check_standard(secret: str, _: int, fields: dict[str, str], body: bytes) -> None:
    from standardwebhooks import Webhook

    Webhook(secret).verify(body, fields)


def main() -> None:
    library, secret, tolerance_s = sys.argv[1:4]
    head, body = sys.stdin.buffer.read().split(b"\n", 1)
    check = {"stripe": check_stripe, "standardwebhooks": check_standard}[library]
    try:
        check(secret, int(tolerance_s), json.loads(head), body)
        print("ok")
    except Exception as refusal:
        print(f"{type(refusal).__name__}: {refusal}")


if __name__ == "__main__":
    main()
