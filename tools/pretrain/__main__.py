"""Pre-train everything from nothing: pictures, VAE, painter, decoder, checkpoint, subject, encoders, judge.

Every stage can be cut off and taken up again: call it with the same arguments once more.
"""

import argparse
from pathlib import Path

from . import cache, clip, dino, export, judge, subject, unet, vae

SHARES = {"vae": 0.18, "unet": 0.64, "decoder": 0.04, "clip": 0.04, "dino": 0.24, "judge": 0.04}


def main(argv: list[str] | None = None) -> None:
    """Run all stages within about `--minutes` of training (rendering and encoding come on top)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path(".cache/pretrain"))
    parser.add_argument("--out", type=Path, default=Path("assets/demo"))
    parser.add_argument("--comfyui", type=Path, default=None)
    parser.add_argument("--minutes", type=float, default=240.0)
    parser.add_argument("--pictures", type=int, default=48000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    args.folder.mkdir(parents=True, exist_ok=True)
    common = ["--folder", str(args.folder), "--seed", str(args.seed)]
    team = [*common, "--workers", str(args.workers)]
    comfyui = ["--comfyui", str(args.comfyui)] if args.comfyui else []

    def minutes(stage: str) -> list[str]:
        return ["--minutes", str(args.minutes * SHARES[stage])]

    cache.main([*team, "--pictures", str(args.pictures)])
    if not (args.folder / "painter.pt").exists():  # its latents fix the encoder
        vae.main([*team, *minutes("vae")])
    unet.main([*team, *comfyui, *minutes("unet")])
    vae.main([*team, *minutes("decoder"), "--decoder-only", "--lr", "0.001"])
    export.main([*common, *comfyui, "--out", str(args.out)])
    subject.main(["--out", str(args.out / "subject"), "--subject-seed", "5", "--photo-seed", "5"])
    clip.main([*team, *minutes("clip"), "--out", str(args.out / "clip")])
    dino.main([*team, *minutes("dino"), "--out", str(args.out / "dino")])
    judge.main([*team, *minutes("judge"), "--out", str(args.out / "judge.safetensors")])


if __name__ == "__main__":
    main()
