// RUN: lowc opt %s --split-input-file --verify-diagnostics --pass-pipeline='builtin.module(lowc-name-matmuls,lowc-assign-forms{rules="[{\"match\":\"gain\",\"form\":\"lmul\",\"gain\":true},{\"match\":\"k4\",\"form\":\"lmul\",\"mantissa-bits\":4},{\"match\":\"full\",\"form\":\"lmul\",\"specials\":\"full\"},{\"match\":\"bf16\",\"form\":\"lmul\",\"weights\":\"bf16\"},{\"match\":\"f8*\",\"form\":\"lmul\",\"weights\":\"f8E4M3FN\"},{\"match\":\"f16\",\"form\":\"lmul\",\"specials\":\"full\",\"carrier\":\"f16\"},{\"match\":\"sum\",\"form\":\"lmul\",\"accumulate\":\"f8E4M3FN\"},{\"match\":\"*\",\"form\":\"lmul\",\"of\":\"elementwise\"},{\"match\":\"*\",\"form\":\"lmul\"}]"},lowc-lower-lmul,canonicalize,cse,symbol-dce)' | filecheck %s

// Each operand of a linear layer: a stored weight of patterns and an activation prepared less the
// constant 0x3F780000; bounds 0x20000000 and 0x5EFFFFFF are 2^-63 and just below 2^63.

// CHECK-NOT: @fc.weight =
// CHECK: util.global private @[[BITS:fc.weight.f32m23.*bits]] {lowc.derivation = {kind = "additive", lanes = 0 : i64, layout = "{{\[\[}}\22transpose\22,[1,0]],[\22reshape\22,[1,32,8]]]", mantissa_bits = 23 : i64, panel = 0 : i64, part = "bits", source = "fc.weight", storage = "f32"}} = #flow.parameter.named<"model"::"[[BITS]]"> : tensor<32x8xi32>
util.global private @fc.weight = #flow.parameter.named<"model"::"fc.weight"> : tensor<8x32xf32>
// CHECK-LABEL: func.func @linear
func.func @linear(%x: tensor<2x32xf32>, %e: tensor<32x8xf32>, %o: tensor<2x8xf32>)
    -> tensor<2x8xf32> {
  // CHECK-DAG: %[[C:.*]] = arith.constant 1064828928 : i32
  // CHECK-DAG: %[[SIGN:.*]] = arith.constant -2147483648 : i32
  // CHECK-DAG: %[[HIGH:.*]] = arith.constant 1593835519 : i32
  // CHECK-DAG: %[[LOW:.*]] = arith.constant 536870912 : i32
  // CHECK-DAG: %[[MASK:.*]] = arith.constant 2147483647 : i32
  // CHECK: %[[P:.*]] = linalg.generic {{.*}} ins(%arg0 : tensor<2x32xf32>) {{.*}}lowc.prepared = "1064828928"
  // CHECK: %[[B:.*]] = arith.bitcast %in : f32 to i32
  // CHECK: %[[M0:.*]] = arith.andi %[[B]], %[[MASK]] : i32
  // CHECK: %[[M1:.*]] = arith.maxui %[[M0]], %[[LOW]] : i32
  // CHECK: %[[M2:.*]] = arith.minui %[[M1]], %[[HIGH]] : i32
  // CHECK: %[[S:.*]] = arith.andi %[[B]], %[[SIGN]] : i32
  // CHECK: %[[W:.*]] = arith.ori %[[S]], %[[M2]] : i32
  // CHECK: arith.subi %[[W]], %[[C]] : i32
  // CHECK-NOT: linalg.transpose
  // CHECK: %[[Q:.*]] = util.global.load @[[BITS]] : tensor<32x8xi32>
  // CHECK: %[[ZERO:.*]] = linalg.fill
  // CHECK: %[[Y:.*]] = linalg.generic {indexing_maps = [#map1, #map2, #map3], iterator_types = ["parallel", "parallel", "reduction"]} ins(%[[P]], %[[Q]] : tensor<2x32xi32>, tensor<32x8xi32>) outs(%[[ZERO]] : tensor<2x8xf32>)
  // CHECK-SAME: lowc.bits = 3.200000e+01 : f64
  // CHECK-SAME: lowc.lowering = "f32 patterns added, 23 mantissa bits, finite specials", lowc.matmul = "fc"
  // CHECK-SAME: lowc.product = "{\22constant\22: 1064828928, \22mantissa-bits\22: 23, \22specials\22: \22finite\22, \22accumulate\22: \22f32\22, \22carrier\22: \22f32\22}"
  // CHECK: ^bb0(%[[A:.*]]: i32, %[[V:.*]]: i32, %[[ACC:.*]]: f32):
  // CHECK-NEXT: %[[SUM:.*]] = arith.addi %[[A]], %[[V]] : i32
  // CHECK-NEXT: %[[F:.*]] = arith.bitcast %[[SUM]] : i32 to f32
  // CHECK-NEXT: %[[T:.*]] = arith.addf %[[ACC]], %[[F]] : f32
  // CHECK-NEXT: linalg.yield %[[T]] : f32
  // CHECK: return %[[Y]]
  %zero = arith.constant 0.0 : f32
  %fill = linalg.fill ins(%zero : f32) outs(%o : tensor<2x8xf32>) -> tensor<2x8xf32>
  %w = util.global.load @fc.weight : tensor<8x32xf32>
  %t = linalg.transpose ins(%w : tensor<8x32xf32>) outs(%e : tensor<32x8xf32>) permutation = [1, 0]
  // expected-remark@below {{fc: f32 patterns added, 23 mantissa bits, finite specials}}
  %y = linalg.matmul ins(%x, %t : tensor<2x32xf32>, tensor<32x8xf32>) outs(%fill : tensor<2x8xf32>) -> tensor<2x8xf32>
  return %y : tensor<2x8xf32>
}

// -----
// Two activations are both prepared; the constant is subtracted from the left one only.

// CHECK-LABEL: func.func @two_activations
func.func @two_activations(%a: tensor<3x2x4xf32>, %b: tensor<3x4x5xf32>, %o: tensor<3x2x5xf32>)
    -> tensor<3x2x5xf32> {
  // CHECK: %[[A:.*]] = linalg.generic {{.*}} ins(%arg0 : tensor<3x2x4xf32>) {{.*}}lowc.prepared = "1064828928"
  // CHECK: arith.subi %{{.*}}, %c1064828928_i32 : i32
  // CHECK: %[[B:.*]] = linalg.generic {{.*}} ins(%arg1 : tensor<3x4x5xf32>) {{.*}}lowc.prepared = "0"
  // CHECK-NOT: arith.subi
  // CHECK: linalg.generic {{.*}} ins(%[[A]], %[[B]] : tensor<3x2x4xi32>, tensor<3x4x5xi32>) outs(%{{.*}} : tensor<3x2x5xf32>)
  // CHECK-SAME: lowc.matmul = "two_activations:0"
  // CHECK: arith.addi
  %zero = arith.constant 0.0 : f32
  %fill = linalg.fill ins(%zero : f32) outs(%o : tensor<3x2x5xf32>) -> tensor<3x2x5xf32>
  // expected-remark@below {{two_activations:0: f32 patterns added}}
  %y = linalg.batch_matmul ins(%a, %b : tensor<3x2x4xf32>, tensor<3x4x5xf32>) outs(%fill : tensor<3x2x5xf32>) -> tensor<3x2x5xf32>
  return %y : tensor<3x2x5xf32>
}

// -----
// A convolution is contracted directly: the image keeps its map of windows, stride 2, and the filter is
// stored with its output channels innermost.

// CHECK: #[[IMAGE:.*]] = affine_map<(d0, d1, d2, d3, d4, d5, d6) -> (d0, d4, d2 * 2 + d5, d3 * 2 + d6)>
// CHECK: #[[FILTER:.*]] = affine_map<(d0, d1, d2, d3, d4, d5, d6) -> (d4, d5, d6, d1)>
util.global private @conv.weight = #flow.parameter.named<"model"::"conv.weight"> : tensor<6x3x2x2xf32>
// CHECK-LABEL: func.func @convolution
func.func @convolution(%x: tensor<1x3x9x9xf32>, %o: tensor<1x6x4x4xf32>) -> tensor<1x6x4x4xf32> {
  // CHECK: %[[P:.*]] = linalg.generic {{.*}} ins(%arg0 : tensor<1x3x9x9xf32>) {{.*}}lowc.prepared = "1064828928"
  // CHECK: %[[Q:.*]] = util.global.load @conv.weight.f32m23{{.*}}.bits : tensor<3x2x2x6xi32>
  // CHECK: linalg.generic {indexing_maps = [#[[IMAGE]], #[[FILTER]], #{{.*}}], iterator_types = ["parallel", "parallel", "parallel", "parallel", "reduction", "reduction", "reduction"]} ins(%[[P]], %[[Q]] : tensor<1x3x9x9xi32>, tensor<3x2x2x6xi32>) outs(%{{.*}} : tensor<1x6x4x4xf32>)
  // CHECK: arith.addi
  // CHECK-NEXT: arith.bitcast
  // CHECK-NEXT: arith.addf
  %zero = arith.constant 0.0 : f32
  %fill = linalg.fill ins(%zero : f32) outs(%o : tensor<1x6x4x4xf32>) -> tensor<1x6x4x4xf32>
  %w = util.global.load @conv.weight : tensor<6x3x2x2xf32>
  // expected-remark@below {{conv: f32 patterns added}}
  %y = linalg.conv_2d_nchw_fchw {strides = dense<2> : tensor<2xi64>, dilations = dense<1> : tensor<2xi64>} ins(%x, %w : tensor<1x3x9x9xf32>, tensor<6x3x2x2xf32>) outs(%fill : tensor<1x6x4x4xf32>) -> tensor<1x6x4x4xf32>
  return %y : tensor<1x6x4x4xf32>
}

// -----
// Depthwise: the channel is a batch of image, filter and result.

// CHECK: #[[IMAGE:.*]] = affine_map<(d0, d1, d2, d3, d4, d5) -> (d0, d3, d1 + d4, d2 + d5)>
util.global private @depth.weight = #flow.parameter.named<"model"::"depth.weight"> : tensor<3x2x2xf32>
// CHECK-LABEL: func.func @depthwise
func.func @depthwise(%x: tensor<1x3x5x5xf32>, %o: tensor<1x3x4x4xf32>) -> tensor<1x3x4x4xf32> {
  // CHECK: util.global.load @depth.weight.f32m23{{.*}}.bits : tensor<3x2x2xi32>
  // CHECK: linalg.generic {indexing_maps = [#[[IMAGE]], #{{.*}}, #{{.*}}], iterator_types = ["parallel", "parallel", "parallel", "parallel", "reduction", "reduction"]} ins(%{{.*}}, %{{.*}} : tensor<1x3x5x5xi32>, tensor<3x2x2xi32>)
  // CHECK: arith.addi
  %zero = arith.constant 0.0 : f32
  %fill = linalg.fill ins(%zero : f32) outs(%o : tensor<1x3x4x4xf32>) -> tensor<1x3x4x4xf32>
  %w = util.global.load @depth.weight : tensor<3x2x2xf32>
  // expected-remark@below {{depth: f32 patterns added}}
  %y = linalg.depthwise_conv_2d_nchw_chw {strides = dense<1> : tensor<2xi64>, dilations = dense<1> : tensor<2xi64>} ins(%x, %w : tensor<1x3x5x5xf32>, tensor<3x2x2xf32>) outs(%fill : tensor<1x3x4x4xf32>) -> tensor<1x3x4x4xf32>
  return %y : tensor<1x3x4x4xf32>
}

// -----
// Matrix times vector and vector times matrix share the prepared vector; both weights are [K, N].

util.global private @fc.weight = #flow.parameter.named<"model"::"fc.weight"> : tensor<8x4xf32>
util.global private @v.weight = #flow.parameter.named<"model"::"v.weight"> : tensor<4x8xf32>
// CHECK-LABEL: func.func @vectors
func.func @vectors(%x: tensor<4xf32>, %o: tensor<8xf32>) -> (tensor<8xf32>, tensor<8xf32>) {
  // CHECK: %[[W:.*]] = util.global.load @fc.weight.{{.*}}.bits : tensor<4x8xi32>
  // CHECK: %[[P:.*]] = linalg.generic {{.*}} ins(%arg0 : tensor<4xf32>) {{.*}}lowc.prepared = "1064828928"
  // CHECK: linalg.generic {{.*}} ins(%[[W]], %[[P]] : tensor<4x8xi32>, tensor<4xi32>) outs(%{{.*}} : tensor<8xf32>)
  // CHECK-NOT: lowc.prepared
  // CHECK: %[[V:.*]] = util.global.load @v.weight.{{.*}}.bits : tensor<4x8xi32>
  // CHECK: linalg.generic {{.*}} ins(%[[P]], %[[V]] : tensor<4xi32>, tensor<4x8xi32>) outs(%{{.*}} : tensor<8xf32>)
  %zero = arith.constant 0.0 : f32
  %fill = linalg.fill ins(%zero : f32) outs(%o : tensor<8xf32>) -> tensor<8xf32>
  %w = util.global.load @fc.weight : tensor<8x4xf32>
  // expected-remark@below {{fc: f32 patterns added}}
  %y = linalg.matvec ins(%w, %x : tensor<8x4xf32>, tensor<4xf32>) outs(%fill : tensor<8xf32>) -> tensor<8xf32>
  %v = util.global.load @v.weight : tensor<4x8xf32>
  // expected-remark@below {{v: f32 patterns added}}
  %z = linalg.vecmat ins(%x, %v : tensor<4xf32>, tensor<4x8xf32>) outs(%fill : tensor<8xf32>) -> tensor<8xf32>
  return %y, %z : tensor<8xf32>, tensor<8xf32>
}

// -----
// The weight on the left: the constant goes to the activation on the right.

util.global private @left.weight = #flow.parameter.named<"model"::"left.weight"> : tensor<8x16xf32>
// CHECK-LABEL: func.func @left
func.func @left(%x: tensor<16x2xf32>, %o: tensor<8x2xf32>) -> tensor<8x2xf32> {
  // CHECK: %[[W:.*]] = util.global.load @left.weight.{{.*}}.bits : tensor<16x8xi32>
  // CHECK: %[[P:.*]] = linalg.generic {{.*}} ins(%arg0 : tensor<16x2xf32>) {{.*}}lowc.prepared = "1064828928"
  // CHECK: linalg.generic {{.*}} ins(%[[W]], %[[P]] : tensor<16x8xi32>, tensor<16x2xi32>) outs(%{{.*}} : tensor<8x2xf32>)
  %zero = arith.constant 0.0 : f32
  %fill = linalg.fill ins(%zero : f32) outs(%o : tensor<8x2xf32>) -> tensor<8x2xf32>
  %w = util.global.load @left.weight : tensor<8x16xf32>
  // expected-remark@below {{left: f32 patterns added}}
  %y = linalg.matmul ins(%w, %x : tensor<8x16xf32>, tensor<16x2xf32>) outs(%fill : tensor<8x2xf32>) -> tensor<8x2xf32>
  return %y : tensor<8x2xf32>
}

// -----
// Rows known at run time, and a sum that starts at something: it is added afterwards.

util.global private @any.weight = #flow.parameter.named<"model"::"any.weight"> : tensor<4x8xf32>
// CHECK-LABEL: func.func @dynamic_and_started
func.func @dynamic_and_started(%x: tensor<?x4xf32>, %init: tensor<?x8xf32>) -> tensor<?x8xf32> {
  // CHECK: %[[ROWS:.*]] = tensor.dim %arg0, %c0
  // CHECK: %[[PE:.*]] = tensor.empty(%[[ROWS]]) : tensor<?x4xi32>
  // CHECK: %[[P:.*]] = linalg.generic {{.*}} ins(%arg0 : tensor<?x4xf32>) outs(%[[PE]] : tensor<?x4xi32>)
  // CHECK: %[[ZERO:.*]] = linalg.fill {{.*}} -> tensor<?x8xf32>
  // CHECK: %[[SUMS:.*]] = linalg.generic {{.*}} : tensor<?x4xi32>, tensor<4x8xi32>) outs(%[[ZERO]] : tensor<?x8xf32>)
  // CHECK: %[[Y:.*]] = linalg.generic {{.*}} ins(%[[SUMS]], %arg1 : tensor<?x8xf32>, tensor<?x8xf32>)
  // CHECK-NEXT: ^bb0(%[[S:.*]]: f32, %[[I:.*]]: f32, %{{.*}}: f32):
  // CHECK-NEXT: arith.addf %[[S]], %[[I]] : f32
  // CHECK: return %[[Y]]
  %w = util.global.load @any.weight : tensor<4x8xf32>
  // expected-remark@below {{any: f32 patterns added}}
  %y = linalg.matmul ins(%x, %w : tensor<?x4xf32>, tensor<4x8xf32>)
      outs(%init : tensor<?x8xf32>) -> tensor<?x8xf32>
  return %y : tensor<?x8xf32>
}

// -----
// Narrow floats are widened before their patterns are taken; the result is rounded once, at the end.

util.global private @half.weight = #flow.parameter.named<"model"::"half.weight"> : tensor<4x8xbf16>
// CHECK-LABEL: func.func @narrow
func.func @narrow(%x: tensor<2x4xbf16>, %o: tensor<2x8xbf16>, %a: tensor<1x2x4xf16>, %b: tensor<1x4x8xf16>, %p: tensor<1x2x8xf32>)
    -> (tensor<2x8xbf16>, tensor<1x2x8xf32>) {
  // CHECK: linalg.generic {{.*}} ins(%arg0 : tensor<2x4xbf16>)
  // CHECK: %[[X:.*]] = arith.extf %in : bf16 to f32
  // CHECK: arith.bitcast %[[X]] : f32 to i32
  // CHECK: util.global.load @half.weight.f32m23{{.*}}.bits : tensor<4x8xi32>
  // CHECK: %[[SUMS:.*]] = linalg.generic {{.*}} outs(%{{.*}} : tensor<2x8xf32>)
  // CHECK: arith.addf %{{.*}} : f32
  // CHECK: %[[Y:.*]] = linalg.generic {{.*}} ins(%[[SUMS]] : tensor<2x8xf32>) outs(%{{.*}} : tensor<2x8xbf16>)
  // CHECK: arith.truncf %{{.*}} : f32 to bf16
  // CHECK: linalg.generic {{.*}} ins(%arg2 : tensor<1x2x4xf16>)
  // CHECK: arith.extf %in : f16 to f32
  // CHECK: linalg.generic {{.*}} ins(%arg3 : tensor<1x4x8xf16>)
  // CHECK: arith.extf %in : f16 to f32
  // CHECK: %[[Z:.*]] = linalg.generic {{.*}} : tensor<1x2x4xi32>, tensor<1x4x8xi32>)
  // CHECK: return %[[Y]], %[[Z]]
  %zero = arith.constant 0.0 : bf16
  %zero32 = arith.constant 0.0 : f32
  %fill = linalg.fill ins(%zero : bf16) outs(%o : tensor<2x8xbf16>) -> tensor<2x8xbf16>
  %w = util.global.load @half.weight : tensor<4x8xbf16>
  // expected-remark@below {{half: f32 patterns added}}
  %y = linalg.matmul ins(%x, %w : tensor<2x4xbf16>, tensor<4x8xbf16>) outs(%fill : tensor<2x8xbf16>) -> tensor<2x8xbf16>
  %fill32 = linalg.fill ins(%zero32 : f32) outs(%p : tensor<1x2x8xf32>) -> tensor<1x2x8xf32>
  // expected-remark@below {{narrow:0: f32 patterns added}}
  %z = linalg.batch_matmul ins(%a, %b : tensor<1x2x4xf16>, tensor<1x4x8xf16>) outs(%fill32 : tensor<1x2x8xf32>) -> tensor<1x2x8xf32>
  return %y, %z : tensor<2x8xbf16>, tensor<1x2x8xf32>
}

// -----
// The gain is one multiplication after the sum, 4 bits a mask before it, and full specials are selections
// in the body, on the weight as it is.

// CHECK-NOT: @gain.weight =
// CHECK-DAG: util.global private @gain.weight.f32m23
// CHECK-DAG: util.global private @k4.weight.f32m4.{{.*}}mantissa_bits = 4 : i64
// CHECK-DAG: util.global private @full.weight =
util.global private @gain.weight = #flow.parameter.named<"model"::"gain.weight"> : tensor<4x8xf32>
util.global private @k4.weight = #flow.parameter.named<"model"::"k4.weight"> : tensor<4x8xf32>
util.global private @full.weight = #flow.parameter.named<"model"::"full.weight"> : tensor<4x8xf32>
// CHECK-LABEL: func.func @options
func.func @options(%x: tensor<2x4xf32>, %o: tensor<2x8xf32>)
    -> (tensor<2x8xf32>, tensor<2x8xf32>, tensor<2x8xf32>) {
  // CHECK-DAG: %[[GAIN:.*]] = arith.constant 0.995620{{.*}} : f32
  // CHECK-DAG: %[[KEPT:.*]] = arith.constant 2146959360 : i32
  // CHECK: util.global.load @gain.weight
  // CHECK: %[[SUMS:.*]] = linalg.generic {{.*}}gain = true{{.*}}finite specials, gain corrected"
  // CHECK: %[[Y:.*]] = linalg.generic {{.*}} ins(%[[SUMS]] : tensor<2x8xf32>)
  // CHECK: arith.mulf %in, %[[GAIN]] : f32
  // CHECK: linalg.generic {{.*}} ins(%arg0 : tensor<2x4xf32>) {{.*}}lowc.prepared = "1064304640"
  // CHECK: %[[CLAMPED:.*]] = arith.minui
  // CHECK: arith.andi %[[CLAMPED]], %[[KEPT]] : i32
  // CHECK: util.global.load @k4.weight.f32m4
  // CHECK: %[[Z:.*]] = linalg.generic {{.*}}4 mantissa bits
  // CHECK: %[[F:.*]] = util.global.load @full.weight : tensor<4x8xf32>
  // CHECK: %[[U:.*]] = linalg.generic {{.*}} ins(%arg0, %[[F]] : tensor<2x4xf32>, tensor<4x8xf32>)
  // CHECK-SAME: full specials
  // CHECK: ^bb0(%[[A:.*]]: f32, %[[B:.*]]: f32, %[[ACC:.*]]: f32):
  // CHECK: %[[X:.*]] = arith.xori
  // CHECK: %[[SIGN:.*]] = arith.andi %[[X]], %c-2147483648_i32
  // CHECK: %[[ISZERO:.*]] = arith.ori %{{.*}} : i1
  // CHECK: %[[TOTAL:.*]] = arith.addi
  // CHECK: %[[OVER:.*]] = arith.cmpi uge, %[[TOTAL]], %{{.*}} : i32
  // CHECK: %[[UNDER:.*]] = arith.cmpi ult, %[[TOTAL]], %{{.*}} : i32
  // CHECK: %[[R:.*]] = arith.subi %[[TOTAL]], %c1064828928_i32 : i32
  // CHECK: arith.select %[[OVER]], %c2139095040_i32, %[[R]] : i32
  // CHECK: arith.select %{{.*}}, %c0_i32
  // CHECK: arith.select %{{.*}}, %c2139095040_i32
  // CHECK: %[[SIGNED:.*]] = arith.ori %{{.*}}, %[[SIGN]] : i32
  // CHECK: %[[BITS:.*]] = arith.select %{{.*}}, %c2143289344_i32, %[[SIGNED]] : i32
  // CHECK: %[[VALUE:.*]] = arith.bitcast %[[BITS]] : i32 to f32
  // CHECK: arith.addf %[[ACC]], %[[VALUE]] : f32
  // CHECK: return %[[Y]], %[[Z]], %[[U]]
  %zero = arith.constant 0.0 : f32
  %fill = linalg.fill ins(%zero : f32) outs(%o : tensor<2x8xf32>) -> tensor<2x8xf32>
  %w = util.global.load @gain.weight : tensor<4x8xf32>
  // expected-remark@below {{gain: f32 patterns added, 23 mantissa bits, finite specials, gain corrected}}
  %y = linalg.matmul ins(%x, %w : tensor<2x4xf32>, tensor<4x8xf32>) outs(%fill : tensor<2x8xf32>) -> tensor<2x8xf32>
  %k = util.global.load @k4.weight : tensor<4x8xf32>
  // expected-remark@below {{k4: f32 patterns added, 4 mantissa bits, finite specials}}
  %z = linalg.matmul ins(%x, %k : tensor<2x4xf32>, tensor<4x8xf32>) outs(%fill : tensor<2x8xf32>) -> tensor<2x8xf32>
  %f = util.global.load @full.weight : tensor<4x8xf32>
  // expected-remark@below {{full: f32 patterns added, 23 mantissa bits, full specials}}
  %u = linalg.matmul ins(%x, %f : tensor<2x4xf32>, tensor<4x8xf32>) outs(%fill : tensor<2x8xf32>) -> tensor<2x8xf32>
  return %y, %z, %u : tensor<2x8xf32>, tensor<2x8xf32>, tensor<2x8xf32>
}

// -----
// A weight in bf16 is shifted up; one in fp8 is moved to f32's exponent, a stored zero is selected away, and
// the scales of the channels follow the sum.

// CHECK-DAG: util.global private @bf16.weight.bf16m23{{.*}}storage = "bf16"{{.*}} : tensor<4x8xi16>
// CHECK-DAG: util.global private @[[CODES:f8.weight.f8E4M3FNm23.v[0-9a-f]*.bits]] {{.*}}part = "bits"{{.*}}storage = "f8E4M3FN"{{.*}} : tensor<4x8xi8>
// CHECK-DAG: util.global private @[[SCALES:f8.weight.f8E4M3FNm23.v[0-9a-f]*.scales]] {{.*}}part = "scales"{{.*}} : tensor<8xf32>
util.global private @bf16.weight = #flow.parameter.named<"model"::"bf16.weight"> : tensor<4x8xf32>
util.global private @f8.weight = #flow.parameter.named<"model"::"f8.weight"> : tensor<4x8xf32>
// CHECK-LABEL: func.func @stored
func.func @stored(%x: tensor<2x4xf32>, %o: tensor<2x8xf32>) -> (tensor<2x8xf32>, tensor<2x8xf32>) {
  // CHECK: linalg.generic {{.*}} ins(%{{.*}}, %{{.*}} : tensor<2x4xi32>, tensor<4x8xi16>)
  // CHECK-SAME: lowc.bits = 1.600000e+01 : f64
  // CHECK-SAME: weight as bf16
  // CHECK: %[[WIDE:.*]] = arith.extui %{{.*}} : i16 to i32
  // CHECK: %[[UP:.*]] = arith.shli %[[WIDE]], %c16_i32 : i32
  // CHECK: arith.addi %{{.*}}, %[[UP]] : i32
  // CHECK: util.global.load @[[CODES]] : tensor<4x8xi8>
  // CHECK: %[[SUMS:.*]] = linalg.generic {{.*}} : tensor<2x4xi32>, tensor<4x8xi8>)
  // CHECK-SAME: lowc.bits = 1.600000e+01 : f64
  // CHECK-SAME: weight as f8E4M3FN
  // CHECK: %[[CODE:.*]] = arith.extui %{{.*}} : i8 to i32
  // CHECK: %[[SIZE:.*]] = arith.andi %[[CODE]], %c127_i32 : i32
  // CHECK: %[[S0:.*]] = arith.andi %[[CODE]], %c128_i32 : i32
  // CHECK: %[[SIGN:.*]] = arith.shli %[[S0]], %c24_i32 : i32
  // CHECK: %[[M0:.*]] = arith.shli %[[SIZE]], %c20_i32 : i32
  // CHECK: %[[MOVED:.*]] = arith.addi %[[M0]], %c1006632960_i32 : i32
  // CHECK: %[[V:.*]] = arith.ori %[[SIGN]], %[[MOVED]] : i32
  // CHECK: %[[T:.*]] = arith.addi %{{.*}}, %[[V]] : i32
  // CHECK: %[[NONE:.*]] = arith.cmpi eq, %[[SIZE]], %c0_i32 : i32
  // CHECK: arith.select %[[NONE]], %c0_i32, %[[T]] : i32
  // CHECK: %[[SC:.*]] = util.global.load @[[SCALES]] : tensor<8xf32>
  // CHECK: linalg.generic {{.*}} ins(%[[SUMS]], %[[SC]] : tensor<2x8xf32>, tensor<8xf32>)
  // CHECK: arith.mulf
  %zero = arith.constant 0.0 : f32
  %fill = linalg.fill ins(%zero : f32) outs(%o : tensor<2x8xf32>) -> tensor<2x8xf32>
  %w = util.global.load @bf16.weight : tensor<4x8xf32>
  // expected-remark@below {{bf16: f32 patterns added, 23 mantissa bits, finite specials, weight as bf16}}
  %y = linalg.matmul ins(%x, %w : tensor<2x4xf32>, tensor<4x8xf32>) outs(%fill : tensor<2x8xf32>) -> tensor<2x8xf32>
  %k = util.global.load @f8.weight : tensor<4x8xf32>
  // expected-remark@below {{f8: f32 patterns added, 23 mantissa bits, finite specials, weight as f8E4M3FN}}
  %z = linalg.matmul ins(%x, %k : tensor<2x4xf32>, tensor<4x8xf32>) outs(%fill : tensor<2x8xf32>) -> tensor<2x8xf32>
  return %y, %z : tensor<2x8xf32>, tensor<2x8xf32>
}

// -----
// f16 patterns: operands are rounded to it, added in 32 bits, and each product is widened to the sum.  A sum
// in fp8, which has no infinity, is cut to 448 and rounded after each addition.

util.global private @f16.weight = #flow.parameter.named<"model"::"f16.weight"> : tensor<4x8xf32>
util.global private @sum.weight = #flow.parameter.named<"model"::"sum.weight"> : tensor<4x8xf32>
// CHECK-LABEL: func.func @carried
func.func @carried(%x: tensor<2x4xf32>, %o: tensor<2x8xf32>) -> (tensor<2x8xf32>, tensor<2x8xf32>) {
  // CHECK-DAG: %[[TOP:.*]] = arith.constant 4.480000e+02 : f32
  // CHECK-DAG: %[[BOTTOM:.*]] = arith.constant -4.480000e+02 : f32
  // CHECK: %[[A:.*]] = linalg.generic {{.*}} ins(%arg0 : tensor<2x4xf32>) outs(%{{.*}} : tensor<2x4xf16>)
  // CHECK: arith.truncf %in : f32 to f16
  // CHECK: %[[B:.*]] = linalg.generic {{.*}} outs(%{{.*}} : tensor<4x8xf16>)
  // CHECK: linalg.generic {{.*}} ins(%[[A]], %[[B]] : tensor<2x4xf16>, tensor<4x8xf16>) outs(%{{.*}} : tensor<2x8xf32>)
  // CHECK-SAME: f16 patterns added, 10 mantissa bits, full specials
  // CHECK: arith.extui %{{.*}} : i16 to i32
  // CHECK: arith.extui %{{.*}} : i16 to i32
  // CHECK: %[[N:.*]] = arith.trunci %{{.*}} : i32 to i16
  // CHECK: %[[H:.*]] = arith.bitcast %[[N]] : i16 to f16
  // CHECK: %[[W:.*]] = arith.extf %[[H]] : f16 to f32
  // CHECK: arith.addf %{{.*}}, %[[W]] : f32
  // CHECK: linalg.generic {{.*}}sum rounded to f8E4M3FN
  // CHECK: %[[S:.*]] = arith.addf
  // CHECK-NEXT: %[[S1:.*]] = arith.minimumf %[[S]], %[[TOP]] : f32
  // CHECK-NEXT: %[[S2:.*]] = arith.maximumf %[[S1]], %[[BOTTOM]] : f32
  // CHECK-NEXT: %[[S3:.*]] = arith.truncf %[[S2]] : f32 to f8E4M3FN
  // CHECK-NEXT: %[[S4:.*]] = arith.extf %[[S3]] : f8E4M3FN to f32
  // CHECK-NEXT: linalg.yield %[[S4]]
  %zero = arith.constant 0.0 : f32
  %fill = linalg.fill ins(%zero : f32) outs(%o : tensor<2x8xf32>) -> tensor<2x8xf32>
  %w = util.global.load @f16.weight : tensor<4x8xf32>
  // expected-remark@below {{f16: f16 patterns added, 10 mantissa bits, full specials}}
  %y = linalg.matmul ins(%x, %w : tensor<2x4xf32>, tensor<4x8xf32>) outs(%fill : tensor<2x8xf32>) -> tensor<2x8xf32>
  %k = util.global.load @sum.weight : tensor<4x8xf32>
  // expected-remark@below {{sum: f32 patterns added, 23 mantissa bits, finite specials, sum rounded to f8E4M3FN}}
  %z = linalg.matmul ins(%x, %k : tensor<2x4xf32>, tensor<4x8xf32>) outs(%fill : tensor<2x8xf32>) -> tensor<2x8xf32>
  return %y, %z : tensor<2x8xf32>, tensor<2x8xf32>
}

// -----
// Multiplications outside matmuls, and by one, which nothing folds: 1 * 1 is 1.0625.  The constant of the
// literal, less its own pattern, is the offset 0x80000.

// CHECK-LABEL: func.func @one
func.func @one(%x: tensor<4xf32>, %h: tensor<4xbf16>, %e: tensor<4xf32>, %he: tensor<4xbf16>, %a: tensor<2x4xf32>, %we: tensor<4x8xf32>, %o: tensor<2x8xf32>)
    -> (tensor<4xf32>, tensor<4xbf16>, tensor<2x8xf32>) {
  // CHECK-NOT: arith.mulf
  // CHECK: linalg.generic {{.*}} ins(%arg0 : tensor<4xf32>) {{.*}}lowc.kind = "elementwise", lowc.lowering = "1 multiplications by added patterns, finite specials", lowc.matmul = "times:mul"
  // CHECK: %[[W:.*]] = arith.ori
  // CHECK-NEXT: %[[T:.*]] = arith.addi %[[W]], %c524288_i32 : i32
  // CHECK-NEXT: arith.bitcast %[[T]] : i32 to f32
  // CHECK: linalg.generic {{.*}} ins(%arg1 : tensor<4xbf16>) {{.*}}lowc.matmul = "square:mul"
  // CHECK: arith.extf %in : bf16 to f32
  // CHECK: arith.addi
  // CHECK: arith.truncf %{{.*}} : f32 to bf16
  // CHECK: linalg.generic {{.*}} ins(%arg4 : tensor<2x4xf32>) {{.*}}lowc.prepared = "1064828928"
  // CHECK: linalg.generic {{.*}} ins(%{{.*}} : tensor<4x8xf32>) {{.*}}lowc.prepared = "0"
  // CHECK: linalg.generic {{.*}}iterator_types = ["parallel", "parallel", "reduction"]} ins(%{{.*}}, %{{.*}} : tensor<2x4xi32>, tensor<4x8xi32>)
  // CHECK: arith.addi
  // CHECK-NEXT: arith.bitcast
  // CHECK-NEXT: arith.addf
  %one = arith.constant 1.0 : f32
  // expected-remark@unknown {{times:mul: 1 multiplications by added patterns, finite specials}}
  // expected-remark@unknown {{square:mul: 1 multiplications by added patterns}}
  %zero = arith.constant 0.0 : f32
  %y = linalg.generic {indexing_maps = [affine_map<(d0) -> (d0)>, affine_map<(d0) -> (d0)>], iterator_types = ["parallel"]} ins(%x : tensor<4xf32>) outs(%e : tensor<4xf32>) {
  ^bb0(%in: f32, %out: f32):
    %p = arith.mulf %in, %one : f32
    linalg.yield %p : f32
  } -> tensor<4xf32> loc("times")
  %z = linalg.generic {indexing_maps = [affine_map<(d0) -> (d0)>, affine_map<(d0) -> (d0)>], iterator_types = ["parallel"]} ins(%h : tensor<4xbf16>) outs(%he : tensor<4xbf16>) {
  ^bb0(%in: bf16, %out: bf16):
    %p = arith.mulf %in, %in : bf16
    linalg.yield %p : bf16
  } -> tensor<4xbf16> loc("square")
  %fill = linalg.fill ins(%zero : f32) outs(%o : tensor<2x8xf32>) -> tensor<2x8xf32>
  %ones = arith.constant dense<1.0> : tensor<4x8xf32>
  // expected-remark@below {{one:0: f32 patterns added}}
  %u = linalg.matmul ins(%a, %ones : tensor<2x4xf32>, tensor<4x8xf32>) outs(%fill : tensor<2x8xf32>) -> tensor<2x8xf32>
  return %y, %z, %u : tensor<4xf32>, tensor<4xbf16>, tensor<2x8xf32>
}

// -----
// What is refused stays exact and says why: integers, f64, and storage for what is not stored.  A weight
// that the model writes to is no parameter: it is prepared like an activation.

util.global private @double.weight = #flow.parameter.named<"model"::"double.weight"> : tensor<4x8xf64>
util.global private mutable @written.weight = #flow.parameter.named<"model"::"written.weight"> : tensor<4x8xf32>
util.global private mutable @f8w.weight = #flow.parameter.named<"model"::"f8w.weight"> : tensor<4x8xf32>
// CHECK-LABEL: func.func @refused
func.func @refused(%i: tensor<2x4xi32>, %j: tensor<4x8xi32>, %k: tensor<2x8xi32>,
                   %x: tensor<2x4xf64>, %o: tensor<2x8xf64>, %a: tensor<1x2x4xf32>,
                   %b: tensor<1x4x8xf32>, %c: tensor<1x2x8xf32>, %p: tensor<2x4xf32>,
                   %q: tensor<2x8xf32>, %new: tensor<4x8xf32>)
    -> (tensor<2x8xi32>, tensor<2x8xf64>, tensor<1x2x8xf32>, tensor<2x8xf32>, tensor<2x8xf32>) {
  // expected-remark@unknown {{f8product:0: f32 patterns added, 23 mantissa bits, finite specials}}
  // CHECK: linalg.matmul {{.*}}lowc.lowering = "exact (it is on i32; bit patterns are added of f32, bf16, f16, f8E4M3FN, f8E5M2)"
  // expected-remark@below {{refused:0: not rewritten: it is on i32; bit patterns are added of f32,}}
  %0 = linalg.matmul ins(%i, %j : tensor<2x4xi32>, tensor<4x8xi32>)
      outs(%k : tensor<2x8xi32>) -> tensor<2x8xi32>
  // CHECK: linalg.matmul {{.*}}lowc.lowering = "exact (it is on f64;
  %w = util.global.load @double.weight : tensor<4x8xf64>
  // expected-remark@below {{double: not rewritten: it is on f64; bit patterns are added of f32,}}
  %1 = linalg.matmul ins(%x, %w : tensor<2x4xf64>, tensor<4x8xf64>)
      outs(%o : tensor<2x8xf64>) -> tensor<2x8xf64>
  // Without a weight there is nothing to store: the product is added all the same.
  // CHECK: linalg.generic {{.*}}lowc.lowering = "f32 patterns added, 23 mantissa bits, finite specials", lowc.matmul = "f8product:0"
  %2 = linalg.batch_matmul ins(%a, %b : tensor<1x2x4xf32>, tensor<1x4x8xf32>)
      outs(%c : tensor<1x2x8xf32>) -> tensor<1x2x8xf32> loc("f8product")
  // CHECK: %[[NOW:.*]] = util.global.load @written.weight : tensor<4x8xf32>
  // CHECK: linalg.generic {{.*}} ins(%[[NOW]] : tensor<4x8xf32>) {{.*}}lowc.prepared = "0"
  // CHECK: arith.addi
  %v = util.global.load @written.weight : tensor<4x8xf32>
  util.global.store %new, @written.weight : tensor<4x8xf32>
  // expected-remark@below {{written: f32 patterns added, 23 mantissa bits, finite specials}}
  %3 = linalg.matmul ins(%p, %v : tensor<2x4xf32>, tensor<4x8xf32>)
      outs(%q : tensor<2x8xf32>) -> tensor<2x8xf32>
  // CHECK: linalg.matmul {{.*}}lowc.lowering = "exact (its weight cannot be stored as f8E4M3FN: the global 'f8w.weight' is no parameter, or the model writes to it)"
  %u = util.global.load @f8w.weight : tensor<4x8xf32>
  util.global.store %new, @f8w.weight : tensor<4x8xf32>
  // expected-remark@below {{f8w: not rewritten: its weight cannot be stored as f8E4M3FN: the global 'f8w.weight' is no parameter, or the model writes to it}}
  %4 = linalg.matmul ins(%p, %u : tensor<2x4xf32>, tensor<4x8xf32>)
      outs(%q : tensor<2x8xf32>) -> tensor<2x8xf32>
  return %0, %1, %2, %3, %4
      : tensor<2x8xi32>, tensor<2x8xf64>, tensor<1x2x8xf32>, tensor<2x8xf32>, tensor<2x8xf32>
}
