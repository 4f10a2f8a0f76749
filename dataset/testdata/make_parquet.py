"""Makes the Parquet files that the tests read. Made with pyarrow 26.0.1; run by hand, in this folder:

    python make_parquet.py
"""

import pyarrow as pa
import pyarrow.parquet as pq

turn = pa.struct([("content", pa.string()), ("role", pa.string())])
talk = pa.list_(turn)


def user(text):
    return {"content": text, "role": "user"}


def assistant(text):
    return {"content": text, "role": "assistant"}


def write(name, columns, **options):
    pq.write_table(pa.table(columns), name, **options)


# as HuggingFaceH4/ultrachat_200k: prompt, prompt_id, messages; two shards of one split, small pages and row groups
chats = [
    {
        "prompt": f"Question {i}?",
        "prompt_id": f"{i:064x}",
        "messages": [user(f"Question {i}?"), assistant(f"Answer {i}."), user("And then?"), assistant(f"More of {i}.")],
    }
    for i in range(40)
]
chats[3]["messages"] = [user("Question 3?")]
chats[5]["messages"] = [user("Question 5?"), assistant("")]
chats[7]["messages"][0] = {"content": "Question 7?", "role": "narrator"}
chats[9]["messages"] = None
chats[11]["prompt_id"] = chats[10]["prompt_id"]
chats[13]["messages"] = []
chats[15]["messages"][1] = {"content": None, "role": "assistant"}
chats[17]["messages"] = [{"content": "Be brief.", "role": "system"}] + chats[17]["messages"]
schema = pa.schema([("prompt", pa.string()), ("prompt_id", pa.string()), ("messages", talk)])
for shard, part in enumerate((chats[:25], chats[25:])):
    pq.write_table(
        pa.Table.from_pylist(part, schema=schema),
        f"ultrachat/train_sft-0000{shard}-of-00002.parquet",
        row_group_size=10,
        data_page_size=64,
        compression=("snappy", "zstd")[shard],
        data_page_version=("1.0", "2.0")[shard],
    )

# as HuggingFaceH4/ultrafeedback_binarized
pairs = [
    {
        "prompt": f"Question {i}?",
        "prompt_id": f"{i:064x}",
        "chosen": [user(f"Question {i}?"), assistant(f"Good {i}.")],
        "rejected": [user(f"Question {i}?"), assistant(f"Bad {i}.")],
        "messages": [user(f"Question {i}?"), assistant(f"Good {i}.")],
        "score_chosen": 8.0,
        "score_rejected": 2.5,
    }
    for i in range(6)
]
pairs[1]["rejected"][1] = assistant("Good 1.")
pairs[2]["rejected"] = [user("Something else?"), assistant("Bad 2.")]
pairs[4]["rejected"] = [user("Question 4?")]
pq.write_table(
    pa.Table.from_pylist(
        pairs,
        schema=pa.schema(
            [
                ("prompt", pa.string()),
                ("prompt_id", pa.string()),
                ("chosen", talk),
                ("rejected", talk),
                ("messages", talk),
                ("score_chosen", pa.float64()),
                ("score_rejected", pa.float64()),
            ]
        ),
    ),
    "ultrafeedback.parquet",
)

# as UCLA-AGI/SPIN_iter0: real, generated
write(
    "spin.parquet",
    {
        "real": pa.array([[user("a?"), assistant("real a")], [user("b?"), assistant("real b")]], talk),
        "generated": pa.array([[user("a?"), assistant("generated a")], [user("b?"), assistant("generated b")]], talk),
    },
    use_compliant_nested_type=False,  # list.item, as older writers name it
)

# own names, numbers of several types, nulls, a list of words; no dictionaries, gzip
write(
    "plain.parquet",
    {
        "uuid": pa.array([7, 8, 9, 10], pa.int64()),
        "question": ["a?", "b?", None, "d?"],
        "answer": pa.array(["good a", "good b", "good c", "good d"], pa.large_string()),
        "worse": ["bad a", "bad b", "bad c", "bad d"],
        "s": pa.array([0.5, None, 1.0, 0.25], pa.float32()),
        "logp": pa.array([-1.25, -2.5, -1.0, float("nan")], pa.float64()),
        "logp_worse": pa.array([-3.0, -4.0, -5.0, -6.0], pa.float64()),
        "contains": pa.array([["a"], [], None, ["d", "e"]], pa.list_(pa.string())),
        "vector": pa.array([[1.0], [2.0], [3.0], [4.0]], pa.list_(pa.float32())),
    },
    use_dictionary=False,
    compression="gzip",
)

write("empty.parquet", {"prompt": pa.array([], pa.string()), "response": pa.array([], pa.string())})
write("bytes.parquet", {"prompt": pa.array([b"a\xff", b"b"]), "response": pa.array([b"c", b"d"])})
