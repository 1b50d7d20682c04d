"""TensorFlow's operations that leave the graph, by what they reach.

Source: tensorflow/core/ops/*.cc of TensorFlow 2.21, all 1,910 of them; a test fails when a new TensorFlow brings one
that sounds like these and is not listed.
"""

from __future__ import annotations

READS_FILES = frozenset(
    {
        "ReadFile", "MatchingFiles", "WholeFileReader", "WholeFileReaderV2", "TextLineReader", "TextLineReaderV2",
        "FixedLengthRecordReader", "FixedLengthRecordReaderV2", "TFRecordReader", "TFRecordReaderV2", "LMDBReader",
        "RecordInput", "Skipgram", "LoadAndRemapMatrix", "GenerateVocabRemapping", "DTensorRestoreV2",
        "InitializeTRTResource",
        # datasets over files
        "TextLineDataset", "TFRecordDataset", "TFRecordDatasetV2", "FixedLengthRecordDataset",
        "FixedLengthRecordDatasetV2", "CSVDataset", "CSVDatasetV2", "ExperimentalCSVDataset", "LMDBDataset",
        "ExperimentalLMDBDataset", "MatchingFilesDataset", "ExperimentalMatchingFilesDataset", "LoadDataset",
        "SnapshotDatasetReader", "SnapshotNestedDatasetReader", "SnapshotChunkDataset", "ListSnapshotChunksDataset",
    }
)  # fmt: skip
"""The file name is an input or an attribute, so a request or the graph's author chooses what is read."""

WRITES_FILES = frozenset(
    {
        "WriteFile", "DumpTensor", "CalibrationStatisticsSaver", "SerializeTRTResource", "DatasetToTFRecord",
        "ExperimentalDatasetToTFRecord", "SaveDataset", "SaveDatasetV2", "SnapshotDataset", "SnapshotDatasetV2",
        "CacheDataset", "CacheDatasetV2", "DistributedSave",
        # event files of TensorBoard
        "SummaryWriter", "CreateSummaryFileWriter", "CreateSummaryDbWriter", "FlushSummaryWriter",
        "CloseSummaryWriter", "ImportEvent", "WriteSummary", "WriteRawProtoSummary", "WriteScalarSummary",
        "WriteHistogramSummary", "WriteImageSummary", "WriteAudioSummary", "WriteGraphSummary",
        "StatsAggregatorSetSummaryWriter",
    }
)  # fmt: skip
"""Whoever writes a file of a chosen name on a server owns the server."""

PYTHON = frozenset({"PyFunc", "PyFuncStateless", "EagerPyFunc"})
"""They call a function of the process that made them: a model server has no Python, and another process must not."""

NETWORK = frozenset(
    {
        "SqlDataset", "ExperimentalSqlDataset", "DataServiceDataset", "DataServiceDatasetV2", "DataServiceDatasetV3",
        "DataServiceDatasetV4", "RegisterDataset", "RegisterDatasetV2", "RpcServer", "RpcServerRegister",
        "RpcServerStart", "RpcClient", "RpcCall", "RpcCheckStatus", "RpcGetValue", "DeleteRpcFutureResource",
        "Rpc", "TryRpc", "GrpcServer", "FileSystemSetConfiguration",
    }
)  # fmt: skip
"""They open connections to an address of the graph's choice, or change where files come from."""

PROCESS = frozenset({"Abort", "WorkerHeartbeat", "RemoteFusedGraphExecute"})
"""They end the server's process, or hand a graph to another one."""

UNREADABLE = frozenset({"MlirPassthroughOp", "_XlaHostComputeMlir", "_TPUCompileMlir"})
"""Their operations are text inside an attribute, which is not looked into."""

# Rpc, TryRpc, GrpcServer, RemoteFusedGraphExecute, the two of TensorRT and these prefixes are not in TensorFlow 2.21
# itself; servers built with other parts know them.
PREFIXES = ("IO>", "Bigtable", "GcsConfigure", "LoadLibrary")
"""tensorflow-io (object stores, queues, sockets), and what earlier TensorFlow had of that kind."""

DEBUG = frozenset({"DebugIdentity", "DebugIdentityV2", "DebugIdentityV3", "DebugNanCount", "DebugNumericSummary"})
"""They send tensors to each of their `debug_urls`, files or addresses; with none they are harmless."""

REACHING_OUT = READS_FILES | WRITES_FILES | PYTHON | NETWORK | PROCESS | UNREADABLE
RESTORING = frozenset({"RestoreV2", "Restore", "RestoreSlice"})
CHECKPOINTS = RESTORING | {"SaveV2", "Save", "SaveSlices", "MergeV2Checkpoints"}
TABLES_FROM_FILES = frozenset({"InitializeTableFromTextFile", "InitializeTableFromTextFileV2"})
