"""Score models on a benchmark folder with HR and LR images, and draw the scores as bars.

python docs/examples/benchmark.py Set5/x2 2 benchmark.png bicubic aplus edsr-baseline
"""

import json
import subprocess
import sys

import matplotlib.pyplot as plt

folder, scale, picture, *models = sys.argv[1:]
scores = {}
for model in models:
    command = [
        "rayscale",
        "evaluate",
        "--model",
        model,
        "--data",
        folder,
        "--scale",
        scale,
        "--json",
    ]
    scores[model] = json.loads(subprocess.run(command, check=True, stdout=-1).stdout)

figure, panel = plt.subplots(figsize=(6, 1 + 0.5 * len(models)))
bars = panel.barh(models, [score["psnr"] for score in scores.values()])
panel.bar_label(bars, fmt="%.2f dB")
panel.set_xlim(min(score["psnr"] for score in scores.values()) - 2)
panel.set_xlabel(f"PSNR, protocol {scores[models[0]]['protocol']}")
panel.set_title(folder, fontsize=10)
panel.invert_yaxis()
figure.tight_layout()
figure.savefig(picture, dpi=90)
