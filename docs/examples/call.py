"""Ask the HTTP service for a larger image, wait when it is busy, and read which model answered.

python docs/examples/call.py http://127.0.0.1:8000 photo.png larger.png
"""

import os
import sys
import time
from pathlib import Path

import httpx

service, photo, larger = sys.argv[1:]
key = os.environ.get("RAYSCALE_KEY", "")  # only for services with keys
headers = {"Authorization": f"Bearer {key}"} if key else {}
query = {"model": "edsr-baseline", "scale": 2}

with httpx.Client(base_url=service, headers=headers, timeout=120) as client:
    while True:
        answer = client.post("/v1/upscale", params=query, content=Path(photo).read_bytes())
        if answer.status_code != httpx.codes.TOO_MANY_REQUESTS:
            break
        time.sleep(float(answer.headers["Retry-After"]))
if answer.is_error:
    sys.exit(answer.json()["error"]["message"])

Path(larger).write_bytes(answer.content)
print("answered by", answer.headers["X-Rayscale-Model"])
print("weights", answer.headers["X-Rayscale-Weights-Sha256"])
