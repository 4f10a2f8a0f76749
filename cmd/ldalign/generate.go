package main

type generateCommand struct {
	modelFlags
	templateFlags
	samplingFlags
	Input    string `help:"JSON lines with prompt, or messages; - is standard input." required:"" placeholder:"FILE"`
	Out      string `help:"JSON lines to write; an existing file is continued." placeholder:"FILE"`
	Overlong string `help:"What to do with a prompt that is too long for the model: cut keeps its last tokens, reject ends the verb." enum:"cut,reject" default:"cut"`
	Slots    int    `help:"Number of prompts that decode together; 0 is as many as --memory allows, up to 64. It does not change the texts." default:"0"`
	Memory   int64  `help:"Memory for keys and values, in MiB." default:"1024"`
	Prefill  int    `help:"Most prompt tokens in one step; a longer prompt is split. It does not change the texts." default:"256" placeholder:"N"`
	LogProbs bool   `help:"Write the log-probability of each token too." name:"logprobs"`
}

// samplingFlags say how tokens are sampled. They convert to offline.Sampling.
type samplingFlags struct {
	MaxTokens         int      `help:"Most tokens of a response; 0 is 256, or half of the model's context if that is less." default:"0" placeholder:"N"`
	Temperature       float64  `help:"Divides the logits; 0 always takes the most probable token." default:"0" placeholder:"T"`
	TopK              int      `help:"Sample among the K most probable tokens; 0 is all." default:"0" placeholder:"K"`
	TopP              float64  `help:"Sample among the most probable tokens whose probabilities add up to P." default:"1" placeholder:"P"`
	MinP              float64  `help:"Sample among tokens with at least this share of the greatest probability." default:"0" placeholder:"P"`
	RepetitionPenalty float64  `help:"Values above 1 make tokens that have occurred less probable." default:"1" placeholder:"R"`
	Seed              uint64   `help:"Seed of the sampling; a record's random numbers depend on it and on the record's id." default:"1"`
	Stop              []string `help:"End a response before this text; may be given several times." sep:"none" placeholder:"TEXT"`
	IgnoreEOS         bool     `help:"Ignore end tokens and continue to --max-tokens." name:"ignore-eos"`
}

func (generateCommand) Help() string {
	return `Example:

    ldalign generate --model ./smollm2 --input prompts.jsonl --max-tokens 200 --temperature 0.7 --out answers.jsonl
    ldalign generate --model my-run@3 --input prompts.jsonl --out answers.jsonl

An input line is {"id": …, "prompt": "…"} or {"id": …, "messages": [{"role": "user", "content": "…"}]}. It may set
max_tokens and seed. An output line adds response, token_ids, logprob (of the response's tokens under the model) and
finish_reason (stop or length); with --logprobs also token_logprobs. A response depends only on its record and
the settings, and not on other records or --slots. After Ctrl-C the finished records are written; with --out the same command
continues, and skips the ids that the file already has. See docs/models.md.`
}
