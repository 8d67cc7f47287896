// RUN: lowc opt %s --split-input-file --verify-diagnostics --pass-pipeline='builtin.module(lowc-name-matmuls,lowc-assign-forms{rules="[{\"match\":\"full\",\"form\":\"lmul\",\"specials\":\"full\"},{\"match\":\"bf16\",\"form\":\"lmul\",\"weights\":\"bf16\"},{\"match\":\"f8\",\"form\":\"lmul\",\"weights\":\"f8E4M3FN\"},{\"match\":\"sum\",\"form\":\"lmul\",\"accumulate\":\"bf16\"},{\"match\":\"exact*\",\"form\":\"exact\"},{\"match\":\"half\",\"form\":\"exact\"},{\"match\":\"carrier\",\"form\":\"pam\",\"carrier\":\"bf16\"},{\"match\":\"*\",\"form\":\"lmul\"}]"},lowc-lower-lmul,lowc-lower-pam,cse,lowc-outline-kernels{unit=avx512},canonicalize,cse,symbol-dce)' | filecheck %s
// RUN: lowc opt %s --split-input-file --pass-pipeline='builtin.module(lowc-name-matmuls,lowc-assign-forms{rules="[{\"match\":\"full\",\"form\":\"lmul\",\"specials\":\"full\"},{\"match\":\"bf16\",\"form\":\"lmul\",\"weights\":\"bf16\"},{\"match\":\"f8\",\"form\":\"lmul\",\"weights\":\"f8E4M3FN\"},{\"match\":\"sum\",\"form\":\"lmul\",\"accumulate\":\"bf16\"},{\"match\":\"exact*\",\"form\":\"exact\"},{\"match\":\"half\",\"form\":\"exact\"},{\"match\":\"carrier\",\"form\":\"pam\",\"carrier\":\"bf16\"},{\"match\":\"*\",\"form\":\"lmul\"}]"},lowc-lower-lmul,lowc-lower-pam,cse,lowc-outline-kernels{unit=avx2},canonicalize,cse,symbol-dce)' 2>&1 | filecheck %s --check-prefix=AVX2
// RUN: lowc opt %s --split-input-file --pass-pipeline='builtin.module(lowc-name-matmuls,lowc-assign-forms{rules="[{\"match\":\"full\",\"form\":\"lmul\",\"specials\":\"full\"},{\"match\":\"bf16\",\"form\":\"lmul\",\"weights\":\"bf16\"},{\"match\":\"f8\",\"form\":\"lmul\",\"weights\":\"f8E4M3FN\"},{\"match\":\"sum\",\"form\":\"lmul\",\"accumulate\":\"bf16\"},{\"match\":\"exact*\",\"form\":\"exact\"},{\"match\":\"half\",\"form\":\"exact\"},{\"match\":\"carrier\",\"form\":\"pam\",\"carrier\":\"bf16\"},{\"match\":\"*\",\"form\":\"lmul\"}]"},lowc-lower-lmul,lowc-lower-pam,cse,lowc-outline-kernels{unit=portable},canonicalize,cse,symbol-dce)' 2>&1 | filecheck %s --check-prefix=PORTABLE
// RUN: lowc opt %s --split-input-file --pass-pipeline='builtin.module(lowc-name-matmuls,lowc-assign-forms{rules="[{\"match\":\"full\",\"form\":\"lmul\",\"specials\":\"full\"},{\"match\":\"bf16\",\"form\":\"lmul\",\"weights\":\"bf16\"},{\"match\":\"f8\",\"form\":\"lmul\",\"weights\":\"f8E4M3FN\"},{\"match\":\"sum\",\"form\":\"lmul\",\"accumulate\":\"bf16\"},{\"match\":\"exact*\",\"form\":\"exact\"},{\"match\":\"half\",\"form\":\"exact\"},{\"match\":\"carrier\",\"form\":\"pam\",\"carrier\":\"bf16\"},{\"match\":\"*\",\"form\":\"lmul\"}]"},lowc-lower-lmul,lowc-lower-pam,cse,lowc-outline-kernels{unit=spirv},canonicalize,cse,symbol-dce)' 2>&1 | filecheck %s --check-prefix=SPIRV
// RUN: lowc opt %s --split-input-file --pass-pipeline='builtin.module(lowc-name-matmuls,lowc-assign-forms{rules="[{\"match\":\"full\",\"form\":\"lmul\",\"specials\":\"full\"},{\"match\":\"bf16\",\"form\":\"lmul\",\"weights\":\"bf16\"},{\"match\":\"f8\",\"form\":\"lmul\",\"weights\":\"f8E4M3FN\"},{\"match\":\"sum\",\"form\":\"lmul\",\"accumulate\":\"bf16\"},{\"match\":\"exact*\",\"form\":\"exact\"},{\"match\":\"half\",\"form\":\"exact\"},{\"match\":\"carrier\",\"form\":\"pam\",\"carrier\":\"bf16\"},{\"match\":\"*\",\"form\":\"lmul\"}]"},lowc-lower-lmul,lowc-lower-pam,cse,lowc-outline-kernels{unit=ptx},canonicalize,cse,symbol-dce)' 2>&1 | filecheck %s --check-prefix=PTX
// RUN: lowc opt %s --split-input-file --pass-pipeline='builtin.module(lowc-name-matmuls,lowc-assign-forms{rules="[{\"match\":\"full\",\"form\":\"lmul\",\"specials\":\"full\"},{\"match\":\"bf16\",\"form\":\"lmul\",\"weights\":\"bf16\"},{\"match\":\"f8\",\"form\":\"lmul\",\"weights\":\"f8E4M3FN\"},{\"match\":\"sum\",\"form\":\"lmul\",\"accumulate\":\"bf16\"},{\"match\":\"exact*\",\"form\":\"exact\"},{\"match\":\"half\",\"form\":\"exact\"},{\"match\":\"carrier\",\"form\":\"pam\",\"carrier\":\"bf16\"},{\"match\":\"*\",\"form\":\"lmul\"}]"},lowc-lower-lmul,lowc-lower-pam,cse,lowc-outline-kernels,canonicalize,cse,symbol-dce)' 2>&1 | filecheck %s --check-prefix=NONE

// Tiles are chosen elsewhere: patterns stand for their numbers, and for the sizes that follow.

// The other units, on the same input.  Panels of vectors of 8 or 4 words, then GPUs: panels in the
// order of the columns, an operand that was prepared ahead, and no narrow weights.

// AVX2: remark: fc: kernel of vectors of 8, {{[0-9]+}} x {{[0-9]+}} sums in registers; what follows stays: it goes to func.return [lowc-outline-kernels]
// AVX2: remark: f8: kernel of vectors of 8
// AVX2: hal.executable.source private @[[K:add_c3f780000m23_f32_1x5x40x32_t[0-9]+x[0-9]+v8k[0-9a-z]+]]
// AVX2-NOT: hal.executable.source
// AVX2: util.global private @[[FC:fc.weight.f32m23.*bits.p[0-9]+x8]] {lowc.derivation = {kind = "additive", lanes = 8 : i64
// AVX2: flow.dispatch @[[K]]::@[[K]][{{.*}}](%{{.*}}, %[[FC]])
// PORTABLE: remark: fc: kernel of vectors of 4, {{[0-9]+}} x {{[0-9]+}} sums in registers; what follows stays: it goes to func.return [lowc-outline-kernels]
// PORTABLE: util.global private @[[FC:fc.weight.f32m23.*bits.p[0-9]+x4]] {lowc.derivation = {kind = "additive", lanes = 4 : i64
// PORTABLE: flow.dispatch {{.*}}, %[[FC]])
// SPIRV: remark: fc: kernel for GPUs, {{[0-9]+}} x {{[0-9]+}} sums a thread; what follows stays: {{.*}} [lowc-outline-kernels]
// SPIRV: remark: f8: no kernel: kernels for GPUs read weights in f32, not f8E4M3FN
// SPIRV: hal.executable.source private @[[K:add_spirv_1x5x40x32_t[0-9]+x[0-9]+]]
// SPIRV: func.func @[[K]]() attributes {translation_info = #translation}
// SPIRV: gpu.thread_id
// SPIRV: util.global private @[[FC:fc.weight.f32m23.*bits.p[0-9]+x1]] {lowc.derivation = {kind = "additive", lanes = 1 : i64
// SPIRV: func.func @linear
// SPIRV: %[[P:.*]] = linalg.generic {{.*}} ins(%arg0 : tensor<5x32xf32>) {{.*}}lowc.prepared = "1064828928"
// SPIRV: %[[A:.*]] = tensor.expand_shape %[[P]] {{.*}} : tensor<5x32xi32> into tensor<1x5x32xi32>
// SPIRV: flow.dispatch @[[K]]::@[[K]][{{.*}}](%[[A]], %[[FC]])
// PTX: #iree_gpu.pipeline<BaseLowering> workgroup_size = [8, 8, 1]>
// PTX: hal.executable.source private @[[K:add_ptx_1x5x40x32_t[0-9]+x[0-9]+]]
// PTX: flow.dispatch @[[K]]::@[[K]]

// Without a unit there are no kernels, and the report says so.
// NONE: remark: fc: no kernel: lowc's kernels are off [lowc-outline-kernels]
// NONE-NOT: flow.dispatch
// NONE-NOT: hal.executable
// NONE: lowc.lowering = "f32 patterns added, 23 mantissa bits, finite specials; stock code generation (lowc's kernels are off)"
// NONE-NOT: flow.dispatch

// Two layers of one shape share a kernel; each weight is a parameter in panels, and the bits that the
// portable form reads are gone.  40 columns do not fill the panels.  The kernel prepares the
// activation itself.

// CHECK: #iree_cpu.pipeline<Default>
// CHECK: hal.executable.source private @[[K:add_c3f780000m23_f32_1x5x40x32_t[0-9]+x[0-9]+v16k[0-9a-z]+]] {
// CHECK: hal.executable.export public @[[K]] ordinal(0)
// CHECK: func.func @[[K]]() attributes {translation_info = #translation} {
// CHECK: vector.maskedstore
// CHECK-NOT: hal.executable.source
// CHECK-NOT: @fc.weight =
// CHECK: util.global private @[[FC:fc.weight.f32m23.*.bits.p[0-9]+x16]] {lowc.derivation = {kind = "additive", lanes = 16 : i64, layout = "{{\[\[}}\22transpose\22,[1,0]],[\22reshape\22,[1,32,40]]]", mantissa_bits = 23 : i64, panel = {{[0-9]+}} : i64, part = "bits", source = "fc.weight", storage = "f32"}} = #flow.parameter.named<"model"::"[[FC]]"> : tensor<1x[[PANELS:[0-9]+x32x[0-9]+xi32]]>
// CHECK-NEXT: util.global private @[[GATE:gate.weight.f32m23.*.bits.p[0-9]+x16]] {{.*}} : tensor<1x[[PANELS]]>
// CHECK-NOT: util.global private
util.global private @fc.weight = #flow.parameter.named<"model"::"fc.weight"> : tensor<40x32xf32>
util.global private @gate.weight = #flow.parameter.named<"model"::"gate.weight"> : tensor<40x32xf32>
// CHECK-LABEL: func.func @linear
func.func @linear(%x: tensor<5x32xf32>, %e: tensor<32x40xf32>, %o: tensor<5x40xf32>)
    -> (tensor<5x40xf32>, tensor<5x40xf32>) {
  // CHECK-NOT: linalg
  // CHECK: %[[X:.*]] = tensor.expand_shape %arg0 {{.*}} : tensor<5x32xf32> into tensor<1x5x32xf32>
  // CHECK: %[[W:.*]] = util.global.load @[[FC]] : tensor<1x[[PANELS]]>
  // CHECK: %[[Y:.*]] = flow.dispatch @[[K]]::@[[K]][{{%c[0-9]+}}, {{%c[0-9]+}}, %c1](%[[X]], %[[W]])
  // CHECK-SAME: lowc.bits = 3.200000e+01 : f64
  // CHECK-SAME: lowc.lowering = "f32 patterns added, 23 mantissa bits, finite specials; kernel of vectors of 16, {{[0-9]+}} x {{[0-9]+}} sums in registers", lowc.matmul = "fc"
  // CHECK-SAME: lowc.tile = "t{{[0-9]+}}x{{[0-9]+}}v16
  // CHECK-SAME: : (tensor<1x5x32xf32>, tensor<1x[[PANELS]]>) -> tensor<1x5x40xf32>
  // CHECK: tensor.collapse_shape %[[Y]] {{.*}} : tensor<1x5x40xf32> into tensor<5x40xf32>
  // CHECK: %[[V:.*]] = util.global.load @[[GATE]]
  // CHECK: flow.dispatch @[[K]]::@[[K]][{{.*}}](%[[X]], %[[V]]) {{.*}}lowc.matmul = "gate"
  // CHECK-NOT: linalg
  %zero = arith.constant 0.0 : f32
  %fill = linalg.fill ins(%zero : f32) outs(%o : tensor<5x40xf32>) -> tensor<5x40xf32>
  %w = util.global.load @fc.weight : tensor<40x32xf32>
  %t = linalg.transpose ins(%w : tensor<40x32xf32>) outs(%e : tensor<32x40xf32>) permutation = [1, 0]
  // expected-remark@+2 {{fc: f32 patterns added}}
  // expected-remark@+1 {{fc: kernel of vectors of 16,}}
  %y = linalg.matmul ins(%x, %t : tensor<5x32xf32>, tensor<32x40xf32>) outs(%fill : tensor<5x40xf32>) -> tensor<5x40xf32>
  %v = util.global.load @gate.weight : tensor<40x32xf32>
  %u = linalg.transpose ins(%v : tensor<40x32xf32>) outs(%e : tensor<32x40xf32>) permutation = [1, 0]
  // expected-remark@+2 {{gate: f32 patterns added}}
  // expected-remark@+1 {{gate: kernel of vectors of 16,}}
  %z = linalg.matmul ins(%x, %u : tensor<5x32xf32>, tensor<32x40xf32>) outs(%fill : tensor<5x40xf32>) -> tensor<5x40xf32>
  return %y, %z : tensor<5x40xf32>, tensor<5x40xf32>
}

// -----
// Two activations, the right one transposed (as in attention): it is turned in the model; the kernel
// prepares both and packs it.

// CHECK: hal.executable.source private @[[K:add_c3f780000m23_f32_3x5x40x32_t.*pbw]] {
// CHECK-LABEL: func.func @activations
func.func @activations(%a: tensor<3x5x32xf32>, %b: tensor<3x40x32xf32>, %o: tensor<3x5x40xf32>)
    -> tensor<3x5x40xf32> {
  // CHECK-NOT: lowc.prepared
  // CHECK: %[[T:.*]] = linalg.transpose ins(%arg1 : tensor<3x40x32xf32>) outs(%{{.*}} : tensor<3x32x40xf32>) permutation = [0, 2, 1]
  // CHECK-NOT: linalg.generic
  // CHECK: flow.dispatch @[[K]]::@[[K]][{{.*}}, %c3, %c1](%arg0, %[[T]]) {{.*}}lowc.matmul = "activations:0"
  // CHECK-SAME: : (tensor<3x5x32xf32>, tensor<3x32x40xf32>) -> tensor<3x5x40xf32>
  %zero = arith.constant 0.0 : f32
  %fill = linalg.fill ins(%zero : f32) outs(%o : tensor<3x5x40xf32>) -> tensor<3x5x40xf32>
  // expected-remark@+2 {{activations:0: f32 patterns added}}
  // expected-remark@+1 {{activations:0: kernel of vectors of 16,}}
  %y = linalg.generic {
      indexing_maps = [affine_map<(b, m, n, k) -> (b, m, k)>, affine_map<(b, m, n, k) -> (b, n, k)>,
                       affine_map<(b, m, n, k) -> (b, m, n)>],
      iterator_types = ["parallel", "parallel", "parallel", "reduction"]}
      ins(%a, %b : tensor<3x5x32xf32>, tensor<3x40x32xf32>) outs(%fill : tensor<3x5x40xf32>) {
  ^bb0(%l: f32, %r: f32, %acc: f32):
    %p = arith.mulf %l, %r : f32
    %s = arith.addf %acc, %p : f32
    linalg.yield %s : f32
  } -> tensor<3x5x40xf32>
  return %y : tensor<3x5x40xf32>
}

// -----
// Rows that are known at run time are a push constant, and the number of workgroups follows.

// CHECK: #hal.pipeline.layout<constants = 1,
// CHECK: hal.executable.source private @[[K:add_c3f780000m23_f32_1xdx40x32_t.*p]] {
// CHECK: hal.interface.constant.load layout(#pipeline_layout) ordinal(0) : i32
util.global private @rows.weight = #flow.parameter.named<"model"::"rows.weight"> : tensor<32x40xf32>
// CHECK-LABEL: func.func @dynamic_rows
func.func @dynamic_rows(%x: tensor<?x32xf32>, %o: tensor<?x40xf32>) -> tensor<?x40xf32> {
  // CHECK: %[[M:.*]] = tensor.dim %arg0, %c0
  // CHECK: %[[GRID:.*]] = arith.ceildivui %[[M]], %c{{[0-9]+}} : index
  // CHECK: %[[M32:.*]] = arith.index_cast %[[M]] : index to i32
  // CHECK: flow.dispatch @[[K]]::@[[K]][%{{.*}}, %[[GRID]], %c1](%[[M32]], %{{.*}}, %{{.*}}) {{.*}} -> tensor<1x?x40xf32>{%[[M]]}
  %zero = arith.constant 0.0 : f32
  %fill = linalg.fill ins(%zero : f32) outs(%o : tensor<?x40xf32>) -> tensor<?x40xf32>
  %w = util.global.load @rows.weight : tensor<32x40xf32>
  // expected-remark@+2 {{rows: f32 patterns added}}
  // expected-remark@+1 {{rows: kernel of vectors of 16,}}
  %y = linalg.matmul ins(%x, %w : tensor<?x32xf32>, tensor<32x40xf32>) outs(%fill : tensor<?x40xf32>) -> tensor<?x40xf32>
  return %y : tensor<?x40xf32>
}

// -----
// Batch, N and K of two activations are push constants; the kernel finds the last panel's columns.

// CHECK: #hal.pipeline.layout<constants = 3,
// CHECK: hal.executable.source private @[[K:add_c3f780000m23_f32_dx5xdxd_t.*pbw]] {
// CHECK-LABEL: func.func @dynamic_product
func.func @dynamic_product(%a: tensor<?x5x?xf32>, %b: tensor<?x?x?xf32>, %o: tensor<?x5x?xf32>)
    -> tensor<?x5x?xf32> {
  // CHECK-DAG: %[[BATCH:.*]] = tensor.dim %arg0, %c0
  // CHECK-DAG: %[[KK:.*]] = tensor.dim %arg0, %c2
  // CHECK-DAG: %[[N:.*]] = tensor.dim %arg1, %c2
  // CHECK-DAG: %[[B32:.*]] = arith.index_cast %[[BATCH]] : index to i32
  // CHECK-DAG: %[[N32:.*]] = arith.index_cast %[[N]] : index to i32
  // CHECK-DAG: %[[K32:.*]] = arith.index_cast %[[KK]] : index to i32
  // CHECK: flow.dispatch @[[K]]::@[[K]][%{{.*}}, %[[BATCH]], %c1](%[[B32]], %[[N32]], %[[K32]], %arg0, %arg1) {{.*}} -> tensor<?x5x?xf32>{%[[BATCH]], %[[N]]}
  %zero = arith.constant 0.0 : f32
  %fill = linalg.fill ins(%zero : f32) outs(%o : tensor<?x5x?xf32>) -> tensor<?x5x?xf32>
  // expected-remark@+2 {{dynamic_product:0: f32 patterns added}}
  // expected-remark@+1 {{dynamic_product:0: kernel of vectors of 16,}}
  %y = linalg.batch_matmul ins(%a, %b : tensor<?x5x?xf32>, tensor<?x?x?xf32>) outs(%fill : tensor<?x5x?xf32>) -> tensor<?x5x?xf32>
  return %y : tensor<?x5x?xf32>
}

// -----
// A batch that the weight does not have counts as rows; one that it has stays a batch.

// CHECK: hal.executable.source private @[[OWN:add_c3f780000m23_f32_3x2x40x32_t.*pb]] {
// CHECK: hal.executable.source private @[[SHARED:add_c3f780000m23_f32_1xdx40x32_t.*p]] {
util.global private @shared.weight = #flow.parameter.named<"model"::"shared.weight"> : tensor<32x40xf32>
util.global private @own.weight = #flow.parameter.named<"model"::"own.weight"> : tensor<3x32x40xf32>
// CHECK-LABEL: func.func @batch
func.func @batch(%x: tensor<3x?x32xf32>, %o: tensor<3x?x40xf32>, %p: tensor<3x2x32xf32>,
                 %q: tensor<3x2x40xf32>) -> (tensor<3x?x40xf32>, tensor<3x2x40xf32>) {
  // CHECK: %[[ROWS:.*]] = tensor.dim %arg0, %c1
  // CHECK: tensor.collapse_shape %arg0 {{\[\[}}0, 1], [2]] : tensor<3x?x32xf32> into tensor<?x32xf32>
  // CHECK: %[[M:.*]] = arith.muli %[[ROWS]], %c3 : index
  // CHECK: %[[Y:.*]] = flow.dispatch @[[SHARED]]::@[[SHARED]][{{.*}}, %c1]({{.*}} -> tensor<1x?x40xf32>{%[[M]]}
  // CHECK: %[[FLAT:.*]] = tensor.collapse_shape %[[Y]]
  // CHECK: tensor.expand_shape %[[FLAT]] {{\[\[}}0, 1], [2]] output_shape [3, %[[ROWS]], 40] : tensor<?x40xf32> into tensor<3x?x40xf32>
  %zero = arith.constant 0.0 : f32
  %fill = linalg.fill ins(%zero : f32) outs(%o : tensor<3x?x40xf32>) -> tensor<3x?x40xf32>
  %w = util.global.load @shared.weight : tensor<32x40xf32>
  // expected-remark@+2 {{shared: f32 patterns added}}
  // expected-remark@+1 {{shared: kernel of vectors of 16,}}
  %y = linalg.generic {
      indexing_maps = [affine_map<(b, m, n, k) -> (b, m, k)>, affine_map<(b, m, n, k) -> (k, n)>,
                       affine_map<(b, m, n, k) -> (b, m, n)>],
      iterator_types = ["parallel", "parallel", "parallel", "reduction"]}
      ins(%x, %w : tensor<3x?x32xf32>, tensor<32x40xf32>) outs(%fill : tensor<3x?x40xf32>) {
  ^bb0(%l: f32, %r: f32, %acc: f32):
    %m = arith.mulf %l, %r : f32
    %s = arith.addf %acc, %m : f32
    linalg.yield %s : f32
  } -> tensor<3x?x40xf32>
  // CHECK: flow.dispatch @[[OWN]]::@[[OWN]][{{.*}}, %c3, %c1](%arg2, %{{.*}}) {{.*}} : (tensor<3x2x32xf32>, tensor<3x{{[0-9]+}}x32x{{[0-9]+}}xi32>) -> tensor<3x2x40xf32>
  %fills = linalg.fill ins(%zero : f32) outs(%q : tensor<3x2x40xf32>) -> tensor<3x2x40xf32>
  %v = util.global.load @own.weight : tensor<3x32x40xf32>
  // expected-remark@+2 {{own: f32 patterns added}}
  // expected-remark@+1 {{own: kernel of vectors of 16,}}
  %z = linalg.batch_matmul ins(%p, %v : tensor<3x2x32xf32>, tensor<3x32x40xf32>) outs(%fills : tensor<3x2x40xf32>) -> tensor<3x2x40xf32>
  return %y, %z : tensor<3x?x40xf32>, tensor<3x2x40xf32>
}

// -----
// A weight on the left has the columns all the same: activation and result are turned.

// CHECK: hal.executable.source private @[[K:add_c3f780000m23_f32_1x5x40x32_t.*p]] {
util.global private @left = #flow.parameter.named<"model"::"left"> : tensor<40x32xf32>
// CHECK-LABEL: func.func @weight_on_the_left
func.func @weight_on_the_left(%x: tensor<32x5xf32>, %o: tensor<40x5xf32>) -> tensor<40x5xf32> {
  // CHECK: linalg.transpose ins(%arg0 : tensor<32x5xf32>) outs(%{{.*}} : tensor<5x32xf32>) permutation = [1, 0]
  // CHECK: %[[Y:.*]] = flow.dispatch @[[K]]::@[[K]]
  // CHECK: %[[C:.*]] = tensor.collapse_shape %[[Y]] {{.*}} into tensor<5x40xf32>
  // CHECK: %[[T:.*]] = linalg.transpose ins(%[[C]] : tensor<5x40xf32>) outs(%{{.*}} : tensor<40x5xf32>) permutation = [1, 0]
  // CHECK: return %[[T]]
  %zero = arith.constant 0.0 : f32
  %fill = linalg.fill ins(%zero : f32) outs(%o : tensor<40x5xf32>) -> tensor<40x5xf32>
  %w = util.global.load @left : tensor<40x32xf32>
  // expected-remark@+2 {{left: f32 patterns added}}
  // expected-remark@+1 {{left: kernel of vectors of 16,}}
  %y = linalg.matmul ins(%w, %x : tensor<40x32xf32>, tensor<32x5xf32>) outs(%fill : tensor<40x5xf32>) -> tensor<40x5xf32>
  return %y : tensor<40x5xf32>
}

// -----
// Narrow weights: two or four in a word, and the scales of fp8 at its end.  An activation that
// was rounded to bf16 is prepared ahead: the kernel reads patterns (no p in its name).

// CHECK-DAG: hal.executable.source private @[[B:add_c3f780000m23_bf16_1x1x40x32_t.*p]] {
// CHECK-DAG: hal.executable.source private @[[F:add_c3f780000m23_f8E4M3FN_1x1x40x32_t.*p_e[0-9a-f]+]] {
// CHECK-DAG: hal.executable.source private @[[C:add_c3f800000m7_f32_1x1x40x32_t[0-9]+x[0-9]+v16k[0-9]+g[0-9]+c[0-9]+]] {
util.global private @bf16.weight = #flow.parameter.named<"model"::"bf16.weight"> : tensor<32x40xf32>
util.global private @f8.weight = #flow.parameter.named<"model"::"f8.weight"> : tensor<32x40xf32>
util.global private @carrier.weight = #flow.parameter.named<"model"::"carrier.weight"> : tensor<32x40xf32>
// CHECK-LABEL: func.func @narrow
func.func @narrow(%x: tensor<1x32xf32>, %o: tensor<1x40xf32>)
    -> (tensor<1x40xf32>, tensor<1x40xf32>, tensor<1x40xf32>) {
  %zero = arith.constant 0.0 : f32
  %fill = linalg.fill ins(%zero : f32) outs(%o : tensor<1x40xf32>) -> tensor<1x40xf32>
  %w = util.global.load @bf16.weight : tensor<32x40xf32>
  // CHECK-DAG: flow.dispatch @[[B]]::@[[B]][{{.*}}lowc.bits = 1.600000e+01 : f64
  // expected-remark@+2 {{bf16: f32 patterns added}}
  // expected-remark@+1 {{bf16: kernel of vectors of 16,}}
  %y = linalg.matmul ins(%x, %w : tensor<1x32xf32>, tensor<32x40xf32>) outs(%fill : tensor<1x40xf32>) -> tensor<1x40xf32>
  %v = util.global.load @f8.weight : tensor<32x40xf32>
  // CHECK-DAG: flow.dispatch @[[F]]::@[[F]][{{.*}}lowc.bits = 9.000000e+00 : f64{{.*}}, + scale by column"
  // CHECK-DAG: util.global.load @f8.weight.f8E4M3FNm23.{{.*}}.scales : tensor<40xf32>
  // expected-remark@+2 {{f8: f32 patterns added}}
  // expected-remark@+1 {{f8: kernel of vectors of 16, 1 x 64 sums in registers, + scale by column}}
  %z = linalg.matmul ins(%x, %v : tensor<1x32xf32>, tensor<32x40xf32>) outs(%fill : tensor<1x40xf32>) -> tensor<1x40xf32>
  %u = util.global.load @carrier.weight : tensor<32x40xf32>
  // CHECK-DAG: flow.dispatch @[[C]]::@[[C]][{{.*}} : (tensor<1x1x32xi32>,
  // expected-remark@+2 {{carrier: bf16 patterns added}}
  // expected-remark@+1 {{carrier: kernel of vectors of 16,}}
  %c = linalg.matmul ins(%x, %u : tensor<1x32xf32>, tensor<32x40xf32>) outs(%fill : tensor<1x40xf32>) -> tensor<1x40xf32>
  return %y, %z, %c : tensor<1x40xf32>, tensor<1x40xf32>, tensor<1x40xf32>
}

// -----
// Refused, with the reason in the report.

util.global private @full.weight = #flow.parameter.named<"model"::"full.weight"> : tensor<32x40xf32>
util.global private @sum.weight = #flow.parameter.named<"model"::"sum.weight"> : tensor<32x40xf32>
// CHECK-NOT: hal.executable
// CHECK-LABEL: func.func @refused
func.func @refused(%x: tensor<2x32xf32>, %o: tensor<2x40xf32>)
    -> (tensor<2x40xf32>, tensor<2x40xf32>) {
  // CHECK-NOT: flow.dispatch
  // CHECK: linalg.generic {{.*}}; stock code generation (kernels have finite specials only)", lowc.matmul = "full"
  // CHECK: linalg.generic {{.*}}; stock code generation (kernels add in f32 only)", lowc.matmul = "sum"
  // CHECK-NOT: flow.dispatch
  // CHECK: return
  %zero = arith.constant 0.0 : f32
  %fill = linalg.fill ins(%zero : f32) outs(%o : tensor<2x40xf32>) -> tensor<2x40xf32>
  %w = util.global.load @full.weight : tensor<32x40xf32>
  // expected-remark@+2 {{full: f32 patterns added}}
  // expected-remark@+1 {{full: no kernel: kernels have finite specials only}}
  %y = linalg.matmul ins(%x, %w : tensor<2x32xf32>, tensor<32x40xf32>) outs(%fill : tensor<2x40xf32>) -> tensor<2x40xf32>
  %v = util.global.load @sum.weight : tensor<32x40xf32>
  // expected-remark@+2 {{sum: f32 patterns added}}
  // expected-remark@+1 {{sum: no kernel: kernels add in f32 only}}
  %z = linalg.matmul ins(%x, %v : tensor<2x32xf32>, tensor<32x40xf32>) outs(%fill : tensor<2x40xf32>) -> tensor<2x40xf32>
  return %y, %z : tensor<2x40xf32>, tensor<2x40xf32>
}

// -----

util.global private @conv.weight = #flow.parameter.named<"model"::"conv.weight"> : tensor<6x3x2x2xf32>
// CHECK-NOT: hal.executable
// CHECK-LABEL: func.func @convolution
func.func @convolution(%x: tensor<1x3x9x9xf32>, %o: tensor<1x6x8x8xf32>) -> tensor<1x6x8x8xf32> {
  // CHECK: linalg.generic {{.*}}; stock code generation (a convolution is contracted directly)", lowc.matmul = "conv"
  // CHECK-NOT: flow.dispatch
  // CHECK: return
  %zero = arith.constant 0.0 : f32
  %fill = linalg.fill ins(%zero : f32) outs(%o : tensor<1x6x8x8xf32>) -> tensor<1x6x8x8xf32>
  %w = util.global.load @conv.weight : tensor<6x3x2x2xf32>
  // expected-remark@+2 {{conv: f32 patterns added}}
  // expected-remark@+1 {{conv: no kernel: a convolution is contracted directly}}
  %y = linalg.conv_2d_nchw_fchw ins(%x, %w : tensor<1x3x9x9xf32>, tensor<6x3x2x2xf32>) outs(%fill : tensor<1x6x8x8xf32>) -> tensor<1x6x8x8xf32>
  return %y : tensor<1x6x8x8xf32>
}

// -----

// CHECK-NOT: hal.executable
// CHECK-LABEL: func.func @nothing_to_add
func.func @nothing_to_add(%x: tensor<2x0xf32>, %y: tensor<0x40xf32>, %o: tensor<2x40xf32>)
    -> tensor<2x40xf32> {
  // CHECK: linalg.generic {{.*}}; stock code generation (one of its sizes is 0)"
  // CHECK-NOT: flow.dispatch
  // CHECK: return
  %zero = arith.constant 0.0 : f32
  %fill = linalg.fill ins(%zero : f32) outs(%o : tensor<2x40xf32>) -> tensor<2x40xf32>
  // expected-remark@+2 {{nothing_to_add:0: f32 patterns added}}
  // expected-remark@+1 {{nothing_to_add:0: no kernel: one of its sizes is 0}}
  %z = linalg.matmul ins(%x, %y : tensor<2x0xf32>, tensor<0x40xf32>) outs(%fill : tensor<2x40xf32>) -> tensor<2x40xf32>
  return %z : tensor<2x40xf32>
}

// -----
// Exact products: a weight is stored in panels, the right one of two activations is packed by the
// kernel.  A weight of 16 bits stays as it is, and so does a convolution.

// CHECK: hal.executable.source private @[[P:f32_3x5x40x32_t[0-9a-z]+]] {
// CHECK: hal.executable.source private @[[K:f32_1x5x40x32_t[0-9a-z]+]] {
// CHECK-NOT: @exact.weight =
// CHECK: util.global private @[[W:exact.weight.*p[0-9]+]] {lowc.derivation = {columns = {{[0-9]+}} : i64, kind = "float-panels", layout = "{{\[\[}}\22transpose\22,[1,0]],[\22reshape\22,[1,32,40]]]", part = "panels", source = "exact.weight"}} = #flow.parameter.named<"model"::"[[W]]"> : tensor<1x[[PANELS:[0-9]+x32x[0-9]+xf32]]>
util.global private @exact.weight = #flow.parameter.named<"model"::"exact.weight"> : tensor<40x32xf32>
util.global private @half.weight = #flow.parameter.named<"model"::"half.weight"> : tensor<32x40xf16>
// CHECK-LABEL: func.func @exact
func.func @exact(%x: tensor<5x32xf32>, %a: tensor<3x5x32xf32>, %b: tensor<3x32x40xf32>, %i: tensor<1x3x9x9xf32>, %f: tensor<6x3x2x2xf32>)
    -> (tensor<5x40xf32>, tensor<3x5x40xf32>, tensor<5x40xf32>, tensor<1x6x8x8xf32>) {
  // CHECK: %[[L:.*]] = util.global.load @[[W]]
  // CHECK: flow.dispatch @[[K]]::@[[K]][{{.*}}](%{{.*}}, %[[L]]) {{.*}}lowc.lowering = "exact (rule 'exact*'); kernel of vectors of 16, {{.*}} sums in registers", lowc.matmul = "exact", {{.*}}lowc.tile = "t5x
  // CHECK: flow.dispatch @[[P]]::@[[P]][{{.*}}](%arg1, %arg2)
  // CHECK-NOT: flow.dispatch
  // CHECK: linalg.matmul {{.*}}; stock code generation (its weight is stored in 16 bits, panels of f32 would be larger)"
  // CHECK: linalg.conv_2d_nchw_fchw {{.*}}; stock code generation (a convolution is contracted directly)"
  %zero = arith.constant 0.0 : f32
  %e = tensor.empty() : tensor<5x40xf32>
  %fill = linalg.fill ins(%zero : f32) outs(%e : tensor<5x40xf32>) -> tensor<5x40xf32>
  %w = util.global.load @exact.weight : tensor<40x32xf32>
  %t = tensor.empty() : tensor<32x40xf32>
  %turned = linalg.transpose ins(%w : tensor<40x32xf32>) outs(%t : tensor<32x40xf32>) permutation = [1, 0]
  // expected-remark@+1 {{exact: kernel of vectors of 16,}}
  %y = linalg.matmul ins(%x, %turned : tensor<5x32xf32>, tensor<32x40xf32>) outs(%fill : tensor<5x40xf32>) -> tensor<5x40xf32>
  %e3 = tensor.empty() : tensor<3x5x40xf32>
  %fill3 = linalg.fill ins(%zero : f32) outs(%e3 : tensor<3x5x40xf32>) -> tensor<3x5x40xf32>
  // expected-remark@+1 {{exact:0: kernel of vectors of 16,}}
  %z = linalg.batch_matmul ins(%a, %b : tensor<3x5x32xf32>, tensor<3x32x40xf32>) outs(%fill3 : tensor<3x5x40xf32>) -> tensor<3x5x40xf32>
  %h = util.global.load @half.weight : tensor<32x40xf16>
  %wider = linalg.generic {indexing_maps = [affine_map<(i, j) -> (i, j)>, affine_map<(i, j) -> (i, j)>], iterator_types = ["parallel", "parallel"]} ins(%h : tensor<32x40xf16>) outs(%t : tensor<32x40xf32>) {
  ^bb0(%in: f16, %out: f32):
    %up = arith.extf %in : f16 to f32
    linalg.yield %up : f32
  } -> tensor<32x40xf32>
  // expected-remark@+1 {{half: no kernel: its weight is stored in 16 bits}}
  %v = linalg.matmul ins(%x, %wider : tensor<5x32xf32>, tensor<32x40xf32>) outs(%fill : tensor<5x40xf32>) -> tensor<5x40xf32>
  %e4 = tensor.empty() : tensor<1x6x8x8xf32>
  %fill4 = linalg.fill ins(%zero : f32) outs(%e4 : tensor<1x6x8x8xf32>) -> tensor<1x6x8x8xf32>
  // expected-remark@+1 {{exact:1: no kernel: a convolution is contracted directly}}
  %c = linalg.conv_2d_nchw_fchw ins(%i, %f : tensor<1x3x9x9xf32>, tensor<6x3x2x2xf32>) outs(%fill4 : tensor<1x6x8x8xf32>) -> tensor<1x6x8x8xf32>
  return %y, %z, %v, %c : tensor<5x40xf32>, tensor<3x5x40xf32>, tensor<5x40xf32>, tensor<1x6x8x8xf32>
}

// -----
// What follows is done by the kernel: bias, ReLU, and behind a reshape a residual that is the input.
// The dispatch stands where the last of it stood; what it reads is laid out as the result is.

// CHECK: #hal.pipeline.layout<constants = 1, bindings = [#hal.pipeline.binding<storage_buffer, ReadOnly>, #hal.pipeline.binding<storage_buffer, ReadOnly>, #hal.pipeline.binding<storage_buffer, ReadOnly>, #hal.pipeline.binding<storage_buffer, ReadOnly>, #hal.pipeline.binding<storage_buffer>]>
// CHECK: hal.executable.source private @[[K:add_c3f780000m23_f32_1xdx32x32_t.*p_e[0-9a-f]+]] {
// CHECK: arith.cmpf ugt, %{{.*}} : vector<16xf32>
// CHECK: arith.select %{{.*}} : vector<16xi1>, vector<16xf32>
util.global private @finish.weight = #flow.parameter.named<"model"::"finish.weight"> : tensor<32x32xf32>
util.global private @finish.bias = #flow.parameter.named<"model"::"finish.bias"> : tensor<32xf32>
// CHECK-LABEL: func.func @epilogue
func.func @epilogue(%x: tensor<?x?x32xf32>, %o: tensor<?x32xf32>, %p: tensor<?x?x32xf32>, %sizes: tensor<3xi64>) -> tensor<?x?x32xf32> {
  // CHECK-NOT: linalg
  // CHECK: %[[BIAS:.*]] = util.global.load @finish.bias
  // CHECK: %[[RESIDUAL:.*]] = flow.tensor.reshape %arg0 : tensor<?x?x32xf32>{%{{.*}}, %{{.*}}} -> tensor<1x?x32xf32>{%[[M:.*]]}
  // CHECK: %[[Y:.*]] = flow.dispatch @[[K]]::@[[K]][{{.*}}](%{{.*}}, %{{.*}}, %{{.*}}, %[[BIAS]], %[[RESIDUAL]])
  // CHECK-SAME: lowc.lowering = "f32 patterns added, 23 mantissa bits, finite specials; kernel of vectors of 16, {{[0-9]+}} x {{[0-9]+}} sums in registers, + bias, relu, residual"
  // CHECK-SAME: -> tensor<1x?x32xf32>{%[[M]]}
  // CHECK: %[[Z:.*]] = flow.tensor.reshape %[[Y]] : tensor<1x?x32xf32>{%[[M]]} -> tensor<?x?x32xf32>{%{{.*}}, %{{.*}}}
  // CHECK: return %[[Z]]
  %zero = arith.constant 0.0 : f32
  %rows = tensor.collapse_shape %x [[0, 1], [2]] : tensor<?x?x32xf32> into tensor<?x32xf32>
  %fill = linalg.fill ins(%zero : f32) outs(%o : tensor<?x32xf32>) -> tensor<?x32xf32>
  %w = util.global.load @finish.weight : tensor<32x32xf32>
  // expected-remark@+2 {{finish: f32 patterns added}}
  // expected-remark@+1 {{+ bias, relu, residual; what follows stays: it goes to func.return}}
  %y = linalg.matmul ins(%rows, %w : tensor<?x32xf32>, tensor<32x32xf32>) outs(%fill : tensor<?x32xf32>) -> tensor<?x32xf32>
  %v = util.global.load @finish.bias : tensor<32xf32>
  %b = linalg.generic {
      indexing_maps = [affine_map<(m, n) -> (m, n)>, affine_map<(m, n) -> (n)>, affine_map<(m, n) -> (m, n)>],
      iterator_types = ["parallel", "parallel"]}
      ins(%y, %v : tensor<?x32xf32>, tensor<32xf32>) outs(%o : tensor<?x32xf32>) {
  ^bb0(%l: f32, %r: f32, %init: f32):
    %s = arith.addf %l, %r : f32
    linalg.yield %s : f32
  } -> tensor<?x32xf32>
  %e = tensor.reshape %b(%sizes) : (tensor<?x32xf32>, tensor<3xi64>) -> tensor<?x?x32xf32>
  %c = linalg.generic {
      indexing_maps = [affine_map<(a, m, n) -> (a, m, n)>, affine_map<(a, m, n) -> (a, m, n)>],
      iterator_types = ["parallel", "parallel", "parallel"]}
      ins(%e : tensor<?x?x32xf32>) outs(%p : tensor<?x?x32xf32>) {
  ^bb0(%l: f32, %init: f32):
    %is_more = arith.cmpf ugt, %l, %zero : f32
    %s = arith.select %is_more, %l, %zero : f32
    linalg.yield %s : f32
  } -> tensor<?x?x32xf32>
  %d = linalg.generic {
      indexing_maps = [affine_map<(a, m, n) -> (a, m, n)>, affine_map<(a, m, n) -> (a, m, n)>, affine_map<(a, m, n) -> (a, m, n)>],
      iterator_types = ["parallel", "parallel", "parallel"]}
      ins(%c, %x : tensor<?x?x32xf32>, tensor<?x?x32xf32>) outs(%p : tensor<?x?x32xf32>) {
  ^bb0(%l: f32, %r: f32, %init: f32):
    %s = arith.addf %l, %r : f32
    linalg.yield %s : f32
  } -> tensor<?x?x32xf32>
  return %d : tensor<?x?x32xf32>
}
