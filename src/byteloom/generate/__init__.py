"""Decoding any Hugging Face causal language model: further and faster than it was trained for."""

from byteloom.generate.lambda_attention import LambdaCacheFactory, LambdaLayer, LambdaStream, extend

__all__ = ["LambdaCacheFactory", "LambdaLayer", "LambdaStream", "extend"]
