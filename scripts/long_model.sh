#!/bin/sh
# Writes a model of LINES lines (10,000 unless given), three for each of its layers, to standard output.
set -eu
lines=${1:-10000}
cat <<HEAD
model long
axis batch : batch
axis seq = 8 : seq
axis vocab = 32 : vocab
axis hidden = 16
axis wide = hidden
input tokens[batch, seq] : tokens
input targets[batch, seq] : next_tokens
weight table[vocab, hidden] = normal(0.02)
x = gather[vocab](table, tokens)
HEAD
awk -v lines="$lines" 'BEGIN {
    for (n = 10; n + 3 <= lines - 2; n += 3) {
        printf "weight w%d[hidden, wide] = normal(0.02)\n", n
        printf "y = einsum[batch, seq, wide](x, w%d)\n", n
        print "x = x + gelu(y[wide -> hidden])"
    }
    for (; n < lines - 2; n++) print "# to the last line"
}'
cat <<TAIL
logits = einsum[batch, seq, vocab](x, table)
loss cross_entropy[vocab](logits, targets)
TAIL
