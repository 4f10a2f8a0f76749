package main

type scoreCommand struct {
	modelFlags
	templateFlags
	Input    string `help:"JSON lines with prompt and response; - is standard input." required:"" placeholder:"FILE"`
	Out      string `help:"JSON lines to write; an existing file is continued." placeholder:"FILE"`
	Overlong string `help:"What to do with a record that is too long for the model: cut drops the first tokens of the prompt, reject ends the verb." enum:"cut,reject" default:"cut"`
	Step     int    `help:"Number of tokens that are computed together. It does not change the results." default:"256" placeholder:"N"`
}

func (scoreCommand) Help() string {
	return `Example:

    ldalign score --model ./smollm2 --input pairs.jsonl --out scored.jsonl
    ldalign score --raw --model ./smollm2 --input '-' < pairs.jsonl

An input line is {"id": …, "prompt": "…", "response": "…"}. An output line adds logprob (log p(response | prompt), the sum
over the response's tokens), tokens (their number) and token_logprobs. With a chat template the response's end token counts, as in
training; with --raw prompt and response are joined as they are, and only the tokenizer's own special tokens are added. If a
record has token_ids from generate and its response is still their text, these tokens are scored. After Ctrl-C the finished
records are written; with --out the same command continues there. See docs/models.md.`
}
