"""Model classes of Hugging Face from tiny configurations, with random weights.

The class and its configuration are looked up by name, so that the table can be made where `transformers` is missing.
"""

from __future__ import annotations

import importlib.util
from functools import partial
from typing import Any

import torch
from torch import nn

from architectures.base import ARCHITECTURES, Architecture, Make, architecture, constant, ids, real

AVAILABLE = importlib.util.find_spec("transformers") is not None
TEXT = {"input_ids": ids(11, 2, 5)}
PICTURE = {"pixel_values": real(2, 3, 8, 8)}
LARGER = {"pixel_values": real(2, 3, 16, 16)}  # so that no tap of a kernel meets padding alone


def make(model: str, config: str, train: bool = False, **options: Any) -> nn.Module:
    import transformers

    settings = getattr(transformers, config)(**options)
    made = getattr(transformers, model)(settings).train(train)
    for m in made.modules():
        if isinstance(m, nn.Embedding):
            m.padding_idx = None  # the gradient of a padding row is withheld, which is no symmetry
            if unread := getattr(m, "offset", 0):  # positions are counted from here: the rows before are never read
                m.weight, m.offset = nn.Parameter(m.weight.detach()[unread:].clone()), 0
    return made


def model(
    name: str, cls: str, config: str, inputs: dict[str, Make], loss: str = "cross entropy", **options: Any
) -> None:
    build = partial(make, cls, config, **options)
    ARCHITECTURES[name] = Architecture(name, "huggingface", build, inputs, loss)


# fmt: off
SMALL = {"vocab_size": 11, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 6}
ENCODER = SMALL | {"max_position_embeddings": 5, "type_vocab_size": 1, "num_hidden_layers": 1}
LLAMA = SMALL | {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4, "max_position_embeddings": 5,
                 "pad_token_id": None, "bos_token_id": None, "eos_token_id": None}
ONE_LAYER = LLAMA | {"num_hidden_layers": 1}

model("hf_bert", "BertForMaskedLM", "BertConfig", TEXT, **ENCODER)
model("hf_bert_classifier", "BertForSequenceClassification", "BertConfig", TEXT, **ENCODER, num_labels=3)
model("hf_roberta", "RobertaForMaskedLM", "RobertaConfig",
      TEXT | {"position_ids": constant(torch.arange(5)[None])}, **ENCODER, pad_token_id=0)
model("hf_distilbert", "DistilBertForMaskedLM", "DistilBertConfig", TEXT, vocab_size=11, dim=8, n_layers=1, n_heads=2,
      hidden_dim=6, max_position_embeddings=5)
model("hf_albert", "AlbertForMaskedLM", "AlbertConfig", TEXT, **ENCODER | {"num_hidden_layers": 2}, embedding_size=4)
model("hf_electra", "ElectraForMaskedLM", "ElectraConfig", TEXT, **ENCODER, embedding_size=4)
model("hf_deberta", "DebertaV2ForMaskedLM", "DebertaV2Config", TEXT, **ENCODER, relative_attention=True,
      max_relative_positions=4, position_buckets=4, pos_att_type=["p2c", "c2p"], share_att_key=True,
      norm_rel_ebd="layer_norm", position_biased_input=False)
model("hf_modernbert", "ModernBertForMaskedLM", "ModernBertConfig", TEXT, **SMALL, max_position_embeddings=5,
      global_attn_every_n_layers=2, local_attention=4, pad_token_id=None, bos_token_id=None, eos_token_id=None,
      cls_token_id=None, sep_token_id=None)
model("hf_gpt2", "GPT2LMHeadModel", "GPT2Config", TEXT, vocab_size=11, n_positions=5, n_embd=8, n_layer=2, n_head=2,
      n_inner=6)
model("hf_gpt_neo", "GPTNeoForCausalLM", "GPTNeoConfig", TEXT, vocab_size=11, max_position_embeddings=5, hidden_size=8,
      num_layers=2, num_heads=2, intermediate_size=6, attention_types=[[["global", "local"], 1]], window_size=3)
model("hf_gptj", "GPTJForCausalLM", "GPTJConfig", TEXT, vocab_size=11, n_positions=5, n_embd=8, n_layer=1, n_head=2,
      rotary_dim=2, n_inner=6)
model("hf_gpt_neox", "GPTNeoXForCausalLM", "GPTNeoXConfig", TEXT, **SMALL, max_position_embeddings=5, rotary_pct=0.5)
model("hf_opt", "OPTForCausalLM", "OPTConfig", {"input_ids": ids(10, 2, 5)}, vocab_size=11, hidden_size=8, ffn_dim=6,
      num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=5, word_embed_proj_dim=8, pad_token_id=10)
model("hf_bloom", "BloomForCausalLM", "BloomConfig", TEXT, vocab_size=11, hidden_size=8, n_layer=1, n_head=2)
model("hf_falcon", "FalconForCausalLM", "FalconConfig", TEXT, vocab_size=11, hidden_size=8, num_hidden_layers=1,
      num_attention_heads=2, ffn_hidden_size=6)
model("hf_llama", "LlamaForCausalLM", "LlamaConfig", TEXT, **LLAMA)
model("hf_mistral", "MistralForCausalLM", "MistralConfig", TEXT, **ONE_LAYER, sliding_window=3)
model("hf_qwen2", "Qwen2ForCausalLM", "Qwen2Config", TEXT,
      **{k: v for k, v in ONE_LAYER.items() if k != "head_dim"})
model("hf_qwen3", "Qwen3ForCausalLM", "Qwen3Config", TEXT, **ONE_LAYER)
model("hf_gemma", "GemmaForCausalLM", "GemmaConfig", TEXT, **ONE_LAYER)
model("hf_gemma2", "Gemma2ForCausalLM", "Gemma2Config", TEXT, **LLAMA, sliding_window=3)
model("hf_gemma3", "Gemma3ForCausalLM", "Gemma3TextConfig", TEXT, **ONE_LAYER)
model("hf_phi", "PhiForCausalLM", "PhiConfig", TEXT, **SMALL | {"num_hidden_layers": 1}, max_position_embeddings=5,
      pad_token_id=None, bos_token_id=None, eos_token_id=None)
model("hf_phi3", "Phi3ForCausalLM", "Phi3Config", TEXT, **{k: v for k, v in ONE_LAYER.items() if k != "head_dim"})
model("hf_olmo2", "Olmo2ForCausalLM", "Olmo2Config", TEXT, **ONE_LAYER)
model("hf_cohere", "CohereForCausalLM", "CohereConfig", TEXT,
      **{k: v for k, v in ONE_LAYER.items() if k != "head_dim"} | {"num_attention_heads": 2, "num_key_value_heads": 1},
      use_qk_norm=True)
model("hf_stablelm", "StableLmForCausalLM", "StableLmConfig", TEXT,
      **{k: v for k, v in ONE_LAYER.items() if k != "head_dim"}, partial_rotary_factor=0.5)
model("hf_mixtral", "MixtralForCausalLM", "MixtralConfig", TEXT, **ONE_LAYER, num_local_experts=3,
      num_experts_per_tok=2, experts_implementation="eager")
model("hf_qwen3_moe", "Qwen3MoeForCausalLM", "Qwen3MoeConfig", TEXT, **ONE_LAYER, moe_intermediate_size=5,
      num_experts=3, num_experts_per_tok=2, norm_topk_prob=True, experts_implementation="eager")
model("hf_mamba", "MambaForCausalLM", "MambaConfig", TEXT, vocab_size=11, hidden_size=6, state_size=3,
      num_hidden_layers=1, expand=1, conv_kernel=3, time_step_rank=2)
model("hf_mamba2", "Mamba2ForCausalLM", "Mamba2Config", TEXT, vocab_size=11, hidden_size=4, state_size=3,
      num_hidden_layers=1, expand=2, conv_kernel=3, num_heads=2, head_dim=4, n_groups=1, chunk_size=4)
model("hf_t5", "T5ForConditionalGeneration", "T5Config",
      {"input_ids": ids(11, 2, 4), "decoder_input_ids": ids(11, 2, 3)}, vocab_size=11, d_model=6, d_kv=3, d_ff=5,
      num_layers=1, num_heads=2, relative_attention_num_buckets=4, relative_attention_max_distance=4,
      dropout_rate=0.0)
model("hf_t5_gated", "T5ForConditionalGeneration", "T5Config",
      {"input_ids": ids(11, 2, 4), "decoder_input_ids": ids(11, 2, 3)}, vocab_size=11, d_model=6, d_kv=3, d_ff=5,
      num_layers=1, num_heads=2, relative_attention_num_buckets=4, relative_attention_max_distance=4,
      feed_forward_proj="gated-gelu", tie_word_embeddings=False)
model("hf_bart", "BartForConditionalGeneration", "BartConfig",
      {"input_ids": ids(10, 2, 4), "decoder_input_ids": ids(10, 2, 4)}, vocab_size=11, d_model=6, encoder_layers=1,
      decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=5, decoder_ffn_dim=5,
      max_position_embeddings=4, pad_token_id=10)
model("hf_whisper", "WhisperForConditionalGeneration", "WhisperConfig",
      {"input_features": real(2, 3, 8), "decoder_input_ids": ids(11, 2, 4)}, vocab_size=11, num_mel_bins=3, d_model=6,
      encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=5,
      decoder_ffn_dim=5, max_source_positions=4, max_target_positions=4, pad_token_id=0, bos_token_id=1,
      eos_token_id=2, decoder_start_token_id=1)
model("hf_wav2vec2", "Wav2Vec2Model", "Wav2Vec2Config", {"input_values": real(2, 24)}, "output", hidden_size=6,
      num_hidden_layers=1, num_attention_heads=2, intermediate_size=5, conv_dim=[4, 4], conv_stride=[2, 2],
      conv_kernel=[3, 2], num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2, apply_spec_augment=False)
model("hf_vit", "ViTForImageClassification", "ViTConfig", PICTURE, hidden_size=8, num_hidden_layers=1,
      num_attention_heads=2, intermediate_size=6, image_size=8, patch_size=4, num_labels=3)
model("hf_deit", "DeiTForImageClassification", "DeiTConfig", PICTURE, hidden_size=6, num_hidden_layers=1,
      num_attention_heads=2, intermediate_size=5, image_size=8, patch_size=4, num_labels=3)
model("hf_beit", "BeitForImageClassification", "BeitConfig", PICTURE, hidden_size=6, num_hidden_layers=1,
      num_attention_heads=2, intermediate_size=5, image_size=8, patch_size=4, num_labels=3, layer_scale_init_value=0.1,
      use_relative_position_bias=True, out_indices=[1])
model("hf_dinov2", "Dinov2ForImageClassification", "Dinov2Config", PICTURE, hidden_size=6, num_hidden_layers=1,
      num_attention_heads=2, mlp_ratio=1, image_size=8, patch_size=4, num_labels=3)
model("hf_swin", "SwinForImageClassification", "SwinConfig", PICTURE, image_size=8, patch_size=2, embed_dim=4,
      depths=[2, 1], num_heads=[1, 2], window_size=2, mlp_ratio=1.0, num_labels=3)
model("hf_convnext", "ConvNextForImageClassification", "ConvNextConfig", LARGER, num_channels=3, patch_size=2,
      hidden_sizes=[4, 6], depths=[1, 1], num_stages=2, num_labels=3)
model("hf_convnextv2", "ConvNextV2ForImageClassification", "ConvNextV2Config", LARGER, num_channels=3, patch_size=2,
      hidden_sizes=[3, 4], depths=[1, 1], num_stages=2, num_labels=3)
model("hf_resnet", "ResNetForImageClassification", "ResNetConfig", {"pixel_values": real(3, 3, 16, 16)}, train=True,
      num_channels=3, embedding_size=2, hidden_sizes=[3, 4], depths=[1, 1], layer_type="basic", num_labels=3)
model("hf_resnet_bottleneck", "ResNetForImageClassification", "ResNetConfig", {"pixel_values": real(3, 3, 16, 16)},
      train=True, num_channels=3, embedding_size=4, hidden_sizes=[8], depths=[2], layer_type="bottleneck",
      num_labels=3)


@architecture(pixel_values=real(4, 3, 16, 16), loss="cross entropy")
def hf_mobilenet_v2() -> nn.Module:
    """The first four blocks: through all sixteen, with three channels, no gradient is told from rounding."""
    made = make("MobileNetV2ForImageClassification", "MobileNetV2Config", train=True, depth_multiplier=0.001,
                depth_divisible_by=1, min_depth=3, expand_ratio=1, finegrained_output=False, num_labels=3,
                classifier_dropout_prob=0.0)
    made.mobilenet_v2.layer = made.mobilenet_v2.layer[:4]
    return made


model("hf_efficientnet", "EfficientNetForImageClassification", "EfficientNetConfig",
      {"pixel_values": real(3, 3, 12, 12)}, train=True, width_coefficient=0.01, depth_coefficient=1.0, depth_divisor=2,
      hidden_dim=12, kernel_sizes=[3, 3], in_channels=[32, 400], out_channels=[400, 400], strides=[1, 1],
      num_block_repeats=[1, 1], expand_ratios=[1, 2], depthwise_padding=[], num_labels=3, dropout_rate=0.0,
      drop_connect_rate=0.0, squeeze_expansion_ratio=0.25)
model("hf_clip", "CLIPModel", "CLIPConfig", {"input_ids": ids(11, 2, 4), "pixel_values": real(2, 3, 4, 4)}, "output",
      text_config={"vocab_size": 11, "hidden_size": 6, "intermediate_size": 5, "num_hidden_layers": 1,
                   "num_attention_heads": 2, "max_position_embeddings": 4, "projection_dim": 3, "eos_token_id": 2,
                   "bos_token_id": 0, "pad_token_id": 1},
      vision_config={"hidden_size": 6, "intermediate_size": 5, "num_hidden_layers": 1, "num_attention_heads": 2,
                     "image_size": 4, "patch_size": 2, "projection_dim": 3},
      projection_dim=3)
model("hf_segformer", "SegformerForImageClassification", "SegformerConfig", PICTURE, num_encoder_blocks=1,
      depths=[1], sr_ratios=[2], hidden_sizes=[4], patch_sizes=[3], strides=[2], num_attention_heads=[2],
      mlp_ratios=[1], num_labels=3, drop_path_rate=0.0, hidden_dropout_prob=0.0,
      attention_probs_dropout_prob=0.0)
# fmt: on
