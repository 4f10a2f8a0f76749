package main

type rewardCommand struct {
	modelFlags
	Input     string `help:"JSON lines with prompt and response, or prompt, chosen and rejected; - is standard input." required:"" placeholder:"FILE"`
	Out       string `help:"JSON lines to write; an existing file is continued." placeholder:"FILE"`
	MaxTokens int    `help:"Most tokens of prompt and response together; the longer of the two is cut first. 0 is the model's limit." default:"0" placeholder:"N"`
	Label     int    `help:"Which output of the model is the reward, counted from 0; required if the model has several." default:"-1" placeholder:"N"`
	Batch     int    `help:"Number of rows that are computed together, a multiple of 4. It changes speed, memory and the last bits of the results." default:"4" placeholder:"N"`
}

func (rewardCommand) Help() string {
	return `Example:

    ldalign reward --model ./reward-model-deberta-v3-large-v2 --input pairs.jsonl --out rewards.jsonl

The model must be a DeBERTa-v2 or -v3 for sequence classification with its tokenizer, as transformers saves it. Adapters are
not supported.

An input line is {"id": …, "prompt": "…", "response": "…"}. The output line adds reward (higher is better), tokens and
truncated. For a line with "chosen" and "rejected" it adds reward_chosen, reward_rejected and margin, their difference. The error
for a bad line names file, line and key; the records before it are written. After Ctrl-C the current batch is finished; with
--out the same command continues there. See docs/models.md.`
}
