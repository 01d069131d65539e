"""The only code that knows ComfyUI: model, text encoder, VAE, devices, progress, folders."""
