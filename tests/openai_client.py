"""OpenAI's own client against a server, whose address is the argument: tests/serve.rs starts both."""

import sys

from openai import BadRequestError, NotFoundError, OpenAI

client = OpenAI(base_url=sys.argv[1], api_key="unused", max_retries=0)
chat = {"model": "tiny", "messages": [{"role": "user", "content": "tea"}], "max_tokens": 20, "temperature": 0}

assert {model.id for model in client.models.list()} == {"tiny", "bert"}
assert client.models.retrieve("tiny").id == "tiny"

whole = client.chat.completions.create(**chat)
assert whole.choices[0].finish_reason in ("stop", "length") and whole.usage.total_tokens > whole.usage.prompt_tokens > 0
parts = list(client.chat.completions.create(**chat, stream=True, stream_options={"include_usage": True}))
text = "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
assert text == whole.choices[0].message.content, (text, whole)
assert parts[-1].usage == whole.usage

prompt = {"model": "tiny", "prompt": "kettle", "max_tokens": 10, "temperature": 0}
completed = client.completions.create(**prompt)
parts = client.completions.create(**prompt, stream=True)
assert "".join(part.choices[0].text for part in parts) == completed.choices[0].text

# The client asks for base64 by itself and decodes it.
coded = client.embeddings.create(model="bert", input=["steel kettle", "wool"]).data
floats = client.embeddings.create(model="bert", input=["steel kettle", "wool"], encoding_format="float").data
for one, other in zip(coded, floats, strict=True):
    assert len(one.embedding) == len(other.embedding) > 0
    assert max(abs(a - b) for a, b in zip(one.embedding, other.embedding)) < 1e-6

for error, call in [
    (NotFoundError, lambda: client.chat.completions.create(**{**chat, "model": "gpt-4o"})),
    (BadRequestError, lambda: client.chat.completions.create(**chat, n=99)),
    (BadRequestError, lambda: client.chat.completions.create(**chat, response_format={"type": "json_object"})),
]:
    try:
        call()
    except error as found:
        assert found.body["message"] and found.code, found
    else:
        raise AssertionError(f"no {error.__name__}")

print("chat, completions, embeddings, streaming, models, errors: ok")
