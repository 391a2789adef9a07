"""The matcher for a device that is not Python: JSON in, JSON out. For tests/test_web.py."""

import json
import sys

from federation.onebit import check_ciphertext, check_public_key, check_template, match


def main():
    request = json.load(sys.stdin)
    key, template, probe, transcript = (
        bytes.fromhex(request[name]) for name in ("public_key", "template", "probe", "transcript")
    )
    check_public_key(key)
    check_ciphertext(template)
    check_ciphertext(probe)
    accepting, rejecting = request["thresholds"]
    challenges = {
        "enrol": check_template(key, template, transcript),
        "accept": match(key, template, probe, transcript, accepting),
        "reject": match(key, template, probe, transcript, rejecting),
    }
    answer = {name: {"reply": one.reply.hex(), "token": one.token.hex()} for name, one in challenges.items()}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
