#!/bin/bash
# Every row of the first table of benchmarks/README.md; records go into the folder that is named, half an hour on 2 cores.
#   make demo && benchmarks/asked.sh build/asked
# Stock IREE is left out: it takes 44 to 79 times as long as w4a8 and most of the time of a run.
set -eu
folder=${1:?"a folder for the records"}
mkdir -p "$folder"
root=$(cd "$(dirname "$0")/.." && pwd)
product() { "$root/.venv/bin/lowc" bench matmul --threads 2 --keep "$folder" "$@"; }
model() { "$root/.venv/bin/lowc" bench model --threads 2 --keep "$folder" "$@"; }
peers="--against onnxruntime,openvino,torch"

for group in 32 128; do
  w4a8="--form w4a8 --group $group $peers"
  product $w4a8 --shape 1x4096x4096 --shape 4x4096x4096 --shape 8x4096x4096 --shape 16x4096x4096
  product $w4a8 --shape 1x11008x4096 --shape 1x4096x11008 --shape 1x1536x384 --shape 1x384x1536
  product $w4a8 --blocks 9 --shape 64x4096x4096 --shape 128x4096x4096
  product $w4a8 --blocks 7 --shape 512x4096x4096
done
product --form w8a8 $peers --shape 1x4096x4096 --shape 1x544x4096
product --form w8a8 $peers --blocks 9 --shape 64x4096x4096 --shape 128x4096x4096
product --form w8a8 $peers --blocks 7 --shape 512x4096x4096
product --form w4a16 --group 32 $peers --shape 1x4096x4096 --shape 64x4096x4096
product --form exact $peers --shape 512x512x512 --shape 1024x1024x1024 \
  --shape 128x384x384 --shape 128x384x1536 --shape 128x1536x384
product --form exact $peers --blocks 9 --shape 2048x2048x2048
product --form exact $peers --no-weight --shape 12x128x128x32 --shape 12x128x32x128
product --form dequant --weights i2 --activations i8 --group 128 $peers --shape 1x4096x4096
product --form dequant --weights i3 --activations i8 --group 128 --against w4a8 --shape 1x4096x4096
odd="--form w4a8 --group 32 --against f32"
product $odd --shape 1x4097x4000 --shape 1x4160x4000 --shape 1x4096x4000 --shape 1x4096x4096 \
  --shape 1x192x4096 --shape 1x256x4096
product $odd --blocks 9 --shape 64x4097x4000 --shape 64x4160x4000 --shape 64x4096x4096 \
  --shape 64x192x4096 --shape 64x256x4096
product --form binary --planes 2 --tables i6 --group 128 --against onnxruntime,w4a8 --shape 1x4096x4096
product --form binary --planes 3 --tables i7 --group 128 --against w4a8 --shape 1x4096x4096
product --form ternary --tables i7 --span 128 --against onnxruntime,w4a8 --shape 1x4096x4096

minilm="$root/build/demo/minilm.pt2"
minilm8="$root/build/demo/minilm8.pt2"
[ -e "$minilm8" ] || "$root/.venv/bin/python" -m lowc.tools.demo "$root/build/demo" --batch 8
recipes="--recipe f32 --recipe w8a8 --recipe w4a8"
opponents="--against torch,onnxruntime,onnxruntime-int8,openvino"
model "$minilm" $recipes $opponents --blocks 11
model "$minilm8" $recipes $opponents --blocks 9
