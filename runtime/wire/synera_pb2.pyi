from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Precision(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FP32: _ClassVar[Precision]
    BF16: _ClassVar[Precision]
    INT8: _ClassVar[Precision]
FP32: Precision
BF16: Precision
INT8: Precision

class ModelInfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ModelInfoResponse(_message.Message):
    __slots__ = ("model", "architecture", "fingerprint", "tokenizer_hash", "context_tokens", "max_draft_tokens", "eos_ids", "vocab", "engine", "paced", "middle")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ARCHITECTURE_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    TOKENIZER_HASH_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_DRAFT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    EOS_IDS_FIELD_NUMBER: _ClassVar[int]
    VOCAB_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    PACED_FIELD_NUMBER: _ClassVar[int]
    MIDDLE_FIELD_NUMBER: _ClassVar[int]
    model: str
    architecture: str
    fingerprint: str
    tokenizer_hash: str
    context_tokens: int
    max_draft_tokens: int
    eos_ids: _containers.RepeatedScalarFieldContainer[int]
    vocab: int
    engine: str
    paced: bool
    middle: Middle
    def __init__(self, model: _Optional[str] = ..., architecture: _Optional[str] = ..., fingerprint: _Optional[str] = ..., tokenizer_hash: _Optional[str] = ..., context_tokens: _Optional[int] = ..., max_draft_tokens: _Optional[int] = ..., eos_ids: _Optional[_Iterable[int]] = ..., vocab: _Optional[int] = ..., engine: _Optional[str] = ..., paced: bool = ..., middle: _Optional[_Union[Middle, _Mapping]] = ...) -> None: ...

class Middle(_message.Message):
    __slots__ = ("first_layers", "last_layers", "hidden", "max_rows")
    FIRST_LAYERS_FIELD_NUMBER: _ClassVar[int]
    LAST_LAYERS_FIELD_NUMBER: _ClassVar[int]
    HIDDEN_FIELD_NUMBER: _ClassVar[int]
    MAX_ROWS_FIELD_NUMBER: _ClassVar[int]
    first_layers: int
    last_layers: int
    hidden: int
    max_rows: int
    def __init__(self, first_layers: _Optional[int] = ..., last_layers: _Optional[int] = ..., hidden: _Optional[int] = ..., max_rows: _Optional[int] = ...) -> None: ...

class OpenRequest(_message.Message):
    __slots__ = ("tokenizer_hash", "key")
    TOKENIZER_HASH_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    tokenizer_hash: str
    key: str
    def __init__(self, tokenizer_hash: _Optional[str] = ..., key: _Optional[str] = ...) -> None: ...

class OpenResponse(_message.Message):
    __slots__ = ("session_id", "lease_seconds", "fingerprint")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    LEASE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    lease_seconds: float
    fingerprint: str
    def __init__(self, session_id: _Optional[str] = ..., lease_seconds: _Optional[float] = ..., fingerprint: _Optional[str] = ...) -> None: ...

class VerifyRequest(_message.Message):
    __slots__ = ("session_id", "seq", "prefix_length", "context", "draft", "sampling", "proposals", "slack_ms")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    PREFIX_LENGTH_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    DRAFT_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    PROPOSALS_FIELD_NUMBER: _ClassVar[int]
    SLACK_MS_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    seq: int
    prefix_length: int
    context: _containers.RepeatedScalarFieldContainer[int]
    draft: _containers.RepeatedScalarFieldContainer[int]
    sampling: Sampling
    proposals: Proposals
    slack_ms: int
    def __init__(self, session_id: _Optional[str] = ..., seq: _Optional[int] = ..., prefix_length: _Optional[int] = ..., context: _Optional[_Iterable[int]] = ..., draft: _Optional[_Iterable[int]] = ..., sampling: _Optional[_Union[Sampling, _Mapping]] = ..., proposals: _Optional[_Union[Proposals, _Mapping]] = ..., slack_ms: _Optional[int] = ...) -> None: ...

class Sampling(_message.Message):
    __slots__ = ("temperature", "top_p", "top_k", "seed")
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    temperature: float
    top_p: float
    top_k: int
    seed: int
    def __init__(self, temperature: _Optional[float] = ..., top_p: _Optional[float] = ..., top_k: _Optional[int] = ..., seed: _Optional[int] = ...) -> None: ...

class Proposals(_message.Message):
    __slots__ = ("sizes", "ids", "weights")
    SIZES_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    sizes: _containers.RepeatedScalarFieldContainer[int]
    ids: _containers.RepeatedScalarFieldContainer[int]
    weights: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, sizes: _Optional[_Iterable[int]] = ..., ids: _Optional[_Iterable[int]] = ..., weights: _Optional[_Iterable[int]] = ...) -> None: ...

class VerifyResponse(_message.Message):
    __slots__ = ("accepted", "next_token", "queue_ms", "compute_ms", "compute_share_ms", "processed_tokens", "load")
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    NEXT_TOKEN_FIELD_NUMBER: _ClassVar[int]
    QUEUE_MS_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_MS_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_SHARE_MS_FIELD_NUMBER: _ClassVar[int]
    PROCESSED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    accepted: int
    next_token: int
    queue_ms: float
    compute_ms: float
    compute_share_ms: float
    processed_tokens: int
    load: int
    def __init__(self, accepted: _Optional[int] = ..., next_token: _Optional[int] = ..., queue_ms: _Optional[float] = ..., compute_ms: _Optional[float] = ..., compute_share_ms: _Optional[float] = ..., processed_tokens: _Optional[int] = ..., load: _Optional[int] = ...) -> None: ...

class CloseRequest(_message.Message):
    __slots__ = ("session_id", "key")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    key: str
    def __init__(self, session_id: _Optional[str] = ..., key: _Optional[str] = ...) -> None: ...

class CloseResponse(_message.Message):
    __slots__ = ("compute_ms", "processed_tokens")
    COMPUTE_MS_FIELD_NUMBER: _ClassVar[int]
    PROCESSED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    compute_ms: float
    processed_tokens: int
    def __init__(self, compute_ms: _Optional[float] = ..., processed_tokens: _Optional[int] = ...) -> None: ...

class GenerateRequest(_message.Message):
    __slots__ = ("prompt", "max_new_tokens", "sampling", "log_probabilities")
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    MAX_NEW_TOKENS_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    LOG_PROBABILITIES_FIELD_NUMBER: _ClassVar[int]
    prompt: _containers.RepeatedScalarFieldContainer[int]
    max_new_tokens: int
    sampling: Sampling
    log_probabilities: bool
    def __init__(self, prompt: _Optional[_Iterable[int]] = ..., max_new_tokens: _Optional[int] = ..., sampling: _Optional[_Union[Sampling, _Mapping]] = ..., log_probabilities: bool = ...) -> None: ...

class GenerateResponse(_message.Message):
    __slots__ = ("token", "queue_ms", "compute_ms", "log_probability")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    QUEUE_MS_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_MS_FIELD_NUMBER: _ClassVar[int]
    LOG_PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    token: int
    queue_ms: float
    compute_ms: float
    log_probability: float
    def __init__(self, token: _Optional[int] = ..., queue_ms: _Optional[float] = ..., compute_ms: _Optional[float] = ..., log_probability: _Optional[float] = ...) -> None: ...

class SketchRequest(_message.Message):
    __slots__ = ("prompt", "length", "max_new_tokens", "sampling")
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    MAX_NEW_TOKENS_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    prompt: str
    length: int
    max_new_tokens: int
    sampling: Sampling
    def __init__(self, prompt: _Optional[str] = ..., length: _Optional[int] = ..., max_new_tokens: _Optional[int] = ..., sampling: _Optional[_Union[Sampling, _Mapping]] = ...) -> None: ...

class SketchResponse(_message.Message):
    __slots__ = ("text", "heading", "tokens", "queue_ms", "compute_ms")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    HEADING_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    QUEUE_MS_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_MS_FIELD_NUMBER: _ClassVar[int]
    text: str
    heading: str
    tokens: int
    queue_ms: float
    compute_ms: float
    def __init__(self, text: _Optional[str] = ..., heading: _Optional[str] = ..., tokens: _Optional[int] = ..., queue_ms: _Optional[float] = ..., compute_ms: _Optional[float] = ...) -> None: ...

class ForwardRequest(_message.Message):
    __slots__ = ("session_id", "seq", "prefix_length", "states", "precision", "returned", "slack_ms")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    PREFIX_LENGTH_FIELD_NUMBER: _ClassVar[int]
    STATES_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    RETURNED_FIELD_NUMBER: _ClassVar[int]
    SLACK_MS_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    seq: int
    prefix_length: int
    states: bytes
    precision: Precision
    returned: int
    slack_ms: int
    def __init__(self, session_id: _Optional[str] = ..., seq: _Optional[int] = ..., prefix_length: _Optional[int] = ..., states: _Optional[bytes] = ..., precision: _Optional[_Union[Precision, str]] = ..., returned: _Optional[int] = ..., slack_ms: _Optional[int] = ...) -> None: ...

class ForwardResponse(_message.Message):
    __slots__ = ("seq", "states", "queue_ms", "compute_ms", "compute_share_ms", "forward_ms", "token_ms", "load")
    SEQ_FIELD_NUMBER: _ClassVar[int]
    STATES_FIELD_NUMBER: _ClassVar[int]
    QUEUE_MS_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_MS_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_SHARE_MS_FIELD_NUMBER: _ClassVar[int]
    FORWARD_MS_FIELD_NUMBER: _ClassVar[int]
    TOKEN_MS_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    seq: int
    states: bytes
    queue_ms: float
    compute_ms: float
    compute_share_ms: float
    forward_ms: float
    token_ms: float
    load: int
    def __init__(self, seq: _Optional[int] = ..., states: _Optional[bytes] = ..., queue_ms: _Optional[float] = ..., compute_ms: _Optional[float] = ..., compute_share_ms: _Optional[float] = ..., forward_ms: _Optional[float] = ..., token_ms: _Optional[float] = ..., load: _Optional[int] = ...) -> None: ...
