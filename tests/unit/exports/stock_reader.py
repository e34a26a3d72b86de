"""What somebody does with exports who has transformers and nothing of ours: run as a script, with a folder of facts.

The folder holds `facts.json`: per kind the export's folder, ids with the same text, and the card's code; and per kind our
model's numbers in KIND.safetensors. Prints the version of transformers.
"""

import json
import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file

torch.manual_seed(0)


def close(ours, theirs):
    apart = float((ours - theirs).abs().max() / ours.abs().max())
    assert apart < 2e-5, apart


def loaded(kind, out, **options):
    """The model, of which no weight is missing, left over or of another shape."""
    model, found = kind.from_pretrained(out, output_loading_info=True, **options)
    assert not any(names for key, names in found.items() if key.endswith(("_keys", "_msgs"))), found
    return model.eval()


def text_model(fact, ours):
    out = fact["out"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    assert tokenizer(fact["text"])["input_ids"] == fact["ids"], (tokenizer(fact["text"]), fact["ids"])
    assert type(tokenizer).__name__ in ("PreTrainedTokenizerFast", "TokenizersBackend")
    assert len({tokenizer.pad_token_id, tokenizer.eos_token_id}) == 2 and tokenizer.bos_token_id == tokenizer.eos_token_id
    ids = torch.tensor([fact["ids"]])
    masked = tokenizer.mask_token is not None
    model = loaded(transformers.AutoModelForMaskedLM if masked else transformers.AutoModelForCausalLM, out)
    with torch.no_grad():
        logits = ours["logits"]
        close(logits, model(ids).logits[0, :, : logits.shape[-1]])
        base = dict(model.config.rope_parameters) if hasattr(model.config, "rope_parameters") else {}
        base = base.get("rope_theta") or model.config.rope_theta
        assert base == fact["rope_theta"], base
    classify_a_batch(model, tokenizer, out)
    if masked:
        fill = transformers.pipeline("fill-mask", model=out)
        found = fill(fact["text"])
        assert found[0]["token"] == int(ours["logits"][fact["ids"].index(tokenizer.mask_token_id)].argmax()), found
    else:
        goes_on = transformers.pipeline("text-generation", model=out, do_sample=False)
        assert goes_on(["It", "It is one"], max_new_tokens=4, batch_size=2)


def classify_a_batch(model, tokenizer, out):
    """By a stock head, if the class has one: the document token learns, and the padding does not."""
    if not hasattr(transformers, type(model).__name__.replace("ForCausalLM", "ForSequenceClassification")):
        return  # Granite's
    heads = transformers.AutoModelForSequenceClassification.from_pretrained(out, num_labels=2)
    batch = tokenizer(["It is", "It is one of"], padding=True, return_tensors="pt")
    heads(**batch).logits.sum().backward()
    rows = heads.get_input_embeddings().weight.grad.abs().sum(1)
    assert rows[tokenizer.bos_token_id] > 0 and rows[tokenizer.pad_token_id] == 0


def image_model(fact, ours):
    out, noise = fact["out"], ours["noise"]
    model = loaded(transformers.AutoModelForPreTraining, out)
    with torch.no_grad():
        close(ours["pixels"], model(ours["images"], noise=noise).logits)
        encoder = transformers.ViTModel.from_pretrained(out, add_pooling_layer=False).eval()
        close(ours["states"], encoder(ours["images"]).last_hidden_state)
    if fact["pipeline"]:
        from PIL import Image

        features = transformers.pipeline("image-feature-extraction", model=out)
        assert len(features(Image.new("RGB", (30, 20)))[0][0]) == ours["states"].shape[-1]


def agent_model(fact, ours):
    model = loaded(transformers.AutoModel, fact["out"])
    with torch.no_grad():
        steps = ours["states"].shape[1]
        answers = model(
            states=ours["states"], actions=ours["actions"], returns_to_go=ours["returns"], rewards=None,
            timesteps=fact["first_time"] + torch.arange(steps).expand(2, -1), attention_mask=torch.ones(2, steps).long(),
        )  # fmt: skip
    close(ours["answers"], answers.action_preds)


folder = Path(sys.argv[1])
for kind, fact in json.loads((folder / "facts.json").read_text()).items():
    if transformers.__version__ not in fact["tried"]:
        continue
    print(kind, flush=True)
    use = text_model if "text" in fact else agent_model if "first_time" in fact else image_model
    use(fact, load_file(folder / f"{kind}.safetensors"))
    exec(fact["code"], {})
print("transformers", transformers.__version__)
