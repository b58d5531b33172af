"""Signs the body on the standard input with a provider's own library.

    sign.py stripe|standardwebhooks SECRET < body

Prints the header fields to send, as JSON.
"""

import datetime
import json
import sys
import time


def stripe_fields(secret: str, body: bytes) -> dict[str, str]:
    import stripe

    now = int(time.time())
    # The library signs text; it never reads the body otherwise.
    payload = f"{now}." + body.decode("utf-8")
    signature = stripe.WebhookSignature._compute_signature(payload, secret)
    header = f"t={now},v1={signature}"
    # What the library itself would accept.
    stripe.WebhookSignature.verify_header(body.decode("utf-8"), header, secret, tolerance=300)
    return {"Stripe-Signature": header}


def standard_fields(secret: str, body: bytes) -> dict[str, str]:
    from standardwebhooks import Webhook

    identifier = f"msg_{time.time_ns()}"
    now = datetime.datetime.now(tz=datetime.timezone.utc)
    webhook = Webhook(secret)
    fields = {
        "webhook-id": identifier,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": webhook.sign(identifier, now, body.decode("utf-8")),
    }
    webhook.verify(body, fields)
    return fields


def main() -> None:
    library, secret = sys.argv[1:3]
    body = sys.stdin.buffer.read()
    fields = {"stripe": stripe_fields, "standardwebhooks": standard_fields}[library]
    json.dump(fields(secret, body), sys.stdout)


if __name__ == "__main__":
    main()
